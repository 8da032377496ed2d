// Attention over lists of single tokens, one per query head (the oracle), and how many of a head's highest-attention tokens
// a step attended (recall). For analyses: one block per row and head, plain loops.
//
//   out[row, h] = softmax(q[row, h] . K^T / sqrt(d)) V   over lists[row, h]
//
// Bytes: 4 d per listed token and query head; a list of 2048, 32 heads, d 128: 33.5 MB, 11 us at 3.0 TB/s.
// Test: quest_cuda_tests --gtest_filter='Analysis*'.
#include "cuda/dispatch.cuh"

namespace quest::cuda {

namespace {

constexpr int kWarps = 4;

template <class T, int D>
__global__ void QUEST_LAUNCH_BOUNDS(kWarps * 32) list_attention_kernel(ListAttentionParams p) {
  constexpr int kEach = D / 32;  // of a row, per lane
  __shared__ float merged[kWarps][D + 2];  // values, maximum, sum
  dependency_wait();
  dependency_release();
  const DecodeRow& row = p.rows[blockIdx.y];
  const DecodeShape& s = p.shape;
  if (row.reading != Reading::selector || s.layer < row.skip_layers) return;
  const int head = static_cast<int>(blockIdx.x), kv_head = head / (s.n_heads / s.n_kv_heads);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int32_t* list = p.lists + (static_cast<int64_t>(blockIdx.y) * s.n_heads + head) * p.list_stride;
  const float scale = kLog2e / sqrtf(static_cast<float>(D));
  const T* query = static_cast<const T*>(p.q) + row.row * p.q_stride + head * D;
  float q[kEach], acc[kEach], top = kMinusInfinity, sum = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) q[i] = to_float(query[i * 32 + lane]) * scale, acc[i] = 0;
  for (int j = warp; j < row.list_pages; j += kWarps) {
    const int t = list[j];
    const int64_t page = row.table[t >> s.page_shift], offset = t & ((1 << s.page_shift) - 1);
    const T* key = static_cast<const T*>(p.kv) + ((page * s.n_kv_heads + kv_head) * 2 << s.page_shift) * D + offset * D;
    const T* value = key + (static_cast<int64_t>(D) << s.page_shift);
    float dot = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) dot = fmaf(q[i], to_float(key[i * 32 + lane]), dot);
    dot = warp_sum(dot);
    const float higher = fmaxf(top, dot), old_scale = top == higher ? 1.0f : exp2f(top - higher), weight = exp2f(dot - higher);
    top = higher;
    sum = sum * old_scale + weight;
#pragma unroll
    for (int i = 0; i < kEach; ++i) acc[i] = fmaf(weight, to_float(value[i * 32 + lane]), acc[i] * old_scale);
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) merged[warp][i * 32 + lane] = acc[i];
  if (lane == 0) merged[warp][D] = top, merged[warp][D + 1] = sum;
  __syncthreads();
  float all = kMinusInfinity, total = 0, scales[kWarps];
  for (int w = 0; w < kWarps; ++w) all = fmaxf(all, merged[w][D]);
  for (int w = 0; w < kWarps; ++w) {
    scales[w] = merged[w][D + 1] > 0 ? exp2f(merged[w][D] - all) : 0.0f;
    total += scales[w] * merged[w][D + 1];
  }
  T* out = static_cast<T*>(p.out) + static_cast<int64_t>(row.row) * s.n_heads * D + head * D;
  for (int c = static_cast<int>(threadIdx.x); c < D; c += kWarps * 32) {
    float value = 0;
    for (int w = 0; w < kWarps; ++w) value += scales[w] * merged[w][c];
    out[c] = from_float<T>(value / total);
  }
}

__device__ inline bool holds(const int32_t* list, int n, int value) {
  int low = 0, high = n;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (list[middle] < value) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < n && list[low] == value;
}

__global__ void QUEST_LAUNCH_BOUNDS(kWarps * 32) recall_kernel(RecallParams p) {
  __shared__ float scratch[kWarps + 1];
  dependency_wait();
  dependency_release();
  const DecodeRow& row = p.rows[blockIdx.y];
  const DecodeShape& s = p.shape;
  const int head = static_cast<int>(blockIdx.x), kv_head = head / (s.n_heads / s.n_kv_heads);
  const int64_t at = static_cast<int64_t>(blockIdx.y) * s.n_heads + head;
  const Reading reading = s.layer < row.skip_layers ? Reading::dense : row.reading;
  const int size = p.top_rows[blockIdx.y].list_pages;
  const auto attended = [&](int t) {
    if (reading == Reading::window) return t < row.sinks || t >= row.n - row.window;
    if (reading == Reading::selector) {
      const int lists = p.token_lists ? s.n_heads : s.n_lists;
      const int64_t list = static_cast<int64_t>(blockIdx.y) * lists + (lists == s.n_heads ? head : kv_head);
      return holds(p.lists + list * p.list_stride, row.list_pages, p.token_lists ? t : t >> s.page_shift);
    }
    if (reading == Reading::evictor && !row.kept_all && t != row.n - 1) {
      const int64_t list = static_cast<int64_t>(s.layer) * row.kept_lists + (row.kept_lists == 1 ? 0 : kv_head);
      return holds(row.kept_tokens + list * row.kept_stride, row.kept - 1, t);
    }
    return true;
  };
  float found = 0;
  for (int i = static_cast<int>(threadIdx.x); i < size; i += kWarps * 32) found += attended(p.tops[at * p.top_stride + i]);
  found = block_sum(found, scratch);
  if (threadIdx.x == 0) p.shares[at] = found / static_cast<float>(size);
}

}  // namespace

void list_attention(const ListAttentionParams& p, const Launch& how) {
  if (p.n_rows == 0) return;
  const dim3 grid(static_cast<unsigned>(p.shape.n_heads), static_cast<unsigned>(p.n_rows));
  with_half(p.shape.type, [&](auto t) {
    with_head_dim(p.shape.head_dim, [&](auto d) {
      launch(how, "list_attention", list_attention_kernel<decltype(t), decltype(d)::value>, grid, unsigned{kWarps * 32}, 0, p);
    });
  });
}

void recall(const RecallParams& p, const Launch& how) {
  if (p.n_rows == 0) return;
  launch(how, "recall", recall_kernel, dim3(static_cast<unsigned>(p.shape.n_heads), static_cast<unsigned>(p.n_rows)), unsigned{kWarps * 32}, 0, p);
}

}  // namespace quest::cuda
