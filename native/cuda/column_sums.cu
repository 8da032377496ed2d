// Attention that a prefill's rows give to each key, summed over rows and the query heads of a KV head: what H2O starts from
// under h2o_prefill.
//
//   sums[kv head, j] += sum over rows i >= j and heads h of the group of softmax(q[i, h] . K^T / sqrt(d))[j]
//
// Two walks over 32 x 32 tiles of scores in fp32: the first gives each row's maximum and sum, the second adds up the columns,
// row after row in one thread, so that the result does not depend on the order of blocks. An option of one method, so it
// stays simple: no tensor cores, 4 d operations per score and walk; 10K tokens of 32 heads in 32 layers take seconds.
// Test: quest_cuda_tests --gtest_filter='Analysis*'.
#include "cuda/dispatch.cuh"

namespace quest::cuda {

namespace {

constexpr int kTile = 32;
constexpr int kSide = 16;  // threads along a tile's rows and columns, 2 x 2 scores each

// Scores of query rows r0 + {0, 16} + tid / 16 against keys j0 + {0, 16} + tid % 16, in units of log2; -inf where a key is
// not visible to a row.
template <class T, int D>
struct Tiles {
  float (*queries)[D + 4];  // [kTile]
  float (*keys)[D + 4];

  __device__ void load_queries(const ColumnSumsParams& p, int head, int r0) const {
    const float scale = kLog2e / sqrtf(static_cast<float>(D));
    for (int i = static_cast<int>(threadIdx.x); i < kTile * D / 8; i += kSide * kSide) {
      const int r = i / (D / 8), c = i % (D / 8) * 8;
      float v[8] = {};
      if (r0 + r < p.rows) unpack8<T>(*reinterpret_cast<const uint4*>(static_cast<const T*>(p.q) + (r0 + r) * p.q_stride + head * D + c), v);
#pragma unroll
      for (int j = 0; j < 8; ++j) queries[r][c + j] = v[j] * scale;
    }
  }
  __device__ void load_keys(const ColumnSumsParams& p, int kv_head, int j0) const {
    for (int i = static_cast<int>(threadIdx.x); i < kTile * D / 8; i += kSide * kSide) {
      const int r = i / (D / 8), c = i % (D / 8) * 8, t = j0 + r;
      float v[8] = {};
      if (t < p.base + p.rows) {
        const int64_t page = p.table[t / p.page_size];
        unpack8<T>(*reinterpret_cast<const uint4*>(static_cast<const T*>(p.kv) +
                                                   ((page * p.n_kv_heads + kv_head) * 2 * p.page_size + t % p.page_size) * D + c),
                   v);
      }
#pragma unroll
      for (int j = 0; j < 8; ++j) keys[r][c + j] = v[j];
    }
  }
  __device__ void scores(const ColumnSumsParams& p, int r0, int j0, float (&out)[2][2]) const {
    const int y = static_cast<int>(threadIdx.x) / kSide, x = static_cast<int>(threadIdx.x) % kSide;
#pragma unroll
    for (int a = 0; a < 2; ++a) out[a][0] = out[a][1] = 0;
    for (int c = 0; c < D; ++c) {
      const float k0 = keys[x][c], k1 = keys[x + kSide][c];
#pragma unroll
      for (int a = 0; a < 2; ++a) {
        const float q = queries[y + a * kSide][c];
        out[a][0] = fmaf(q, k0, out[a][0]);
        out[a][1] = fmaf(q, k1, out[a][1]);
      }
    }
#pragma unroll
    for (int a = 0; a < 2; ++a) {
      const int r = r0 + y + a * kSide;
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        if (r >= p.rows || j0 + x + b * kSide > p.base + r) out[a][b] = kMinusInfinity;
      }
    }
  }
};

template <class T, int D>
__global__ void QUEST_LAUNCH_BOUNDS(kSide* kSide) row_norms_kernel(ColumnSumsParams p) {
  __shared__ float queries[kTile][D + 4], keys[kTile][D + 4];
  dependency_wait();
  dependency_release();
  const Tiles<T, D> tiles{queries, keys};
  const int head = static_cast<int>(blockIdx.y), r0 = static_cast<int>(blockIdx.x) * kTile;
  const int y = static_cast<int>(threadIdx.x) / kSide, x = static_cast<int>(threadIdx.x) % kSide;
  tiles.load_queries(p, head, r0);
  float top[2] = {kMinusInfinity, kMinusInfinity}, sum[2] = {0, 0};  // of this thread's columns
  const int end = p.base + min(r0 + kTile, p.rows);
  for (int j0 = 0; j0 < end; j0 += kTile) {
    __syncthreads();
    tiles.load_keys(p, head / (p.n_heads / p.n_kv_heads), j0);
    __syncthreads();
    float s[2][2];
    tiles.scores(p, r0, j0, s);
#pragma unroll
    for (int a = 0; a < 2; ++a) {
      const float higher = fmaxf(top[a], fmaxf(s[a][0], s[a][1]));
      if (higher == kMinusInfinity) continue;
      sum[a] = sum[a] * exp2f(top[a] - higher) + exp2f(s[a][0] - higher) + exp2f(s[a][1] - higher);
      top[a] = higher;
    }
  }
#pragma unroll
  for (int a = 0; a < 2; ++a) {
    float all = top[a];
    for (int o = kSide / 2; o > 0; o /= 2) all = fmaxf(all, __shfl_xor_sync(kFull, all, o));
    float total = top[a] == kMinusInfinity ? 0.0f : sum[a] * exp2f(top[a] - all);
    for (int o = kSide / 2; o > 0; o /= 2) total += __shfl_xor_sync(kFull, total, o);
    const int r = r0 + y + a * kSide;
    if (x == 0 && r < p.rows) {
      float* out = p.norms + (static_cast<int64_t>(r) * p.n_heads + head) * 2;
      out[0] = all;
      out[1] = total;
    }
  }
}

template <class T, int D>
__global__ void QUEST_LAUNCH_BOUNDS(kSide* kSide) column_sums_kernel(ColumnSumsParams p) {
  __shared__ float queries[kTile][D + 4], keys[kTile][D + 4];
  __shared__ float columns[kSide][kTile];
  dependency_wait();
  dependency_release();
  const Tiles<T, D> tiles{queries, keys};
  const int kv_head = static_cast<int>(blockIdx.y), j0 = static_cast<int>(blockIdx.x) * kTile, group = p.n_heads / p.n_kv_heads;
  const int tid = static_cast<int>(threadIdx.x), y = tid / kSide, x = tid % kSide;
  tiles.load_keys(p, kv_head, j0);
  float sum[2] = {0, 0};
  // Rows before the tile's first key do not see it.
  const int first = max(0, j0 - p.base) / kTile * kTile;
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (int r0 = first; r0 < p.rows; r0 += kTile) {
      __syncthreads();
      tiles.load_queries(p, head, r0);
      __syncthreads();
      float s[2][2];
      tiles.scores(p, r0, j0, s);
#pragma unroll
      for (int a = 0; a < 2; ++a) {
        const int r = r0 + y + a * kSide;
        if (r >= p.rows) continue;
        const float* norm = p.norms + (static_cast<int64_t>(r) * p.n_heads + head) * 2;
#pragma unroll
        for (int b = 0; b < 2; ++b) sum[b] += exp2f(s[a][b] - norm[0]) / norm[1];
      }
    }
  }
  columns[y][x] = sum[0];
  columns[y][x + kSide] = sum[1];
  __syncthreads();
  const int j = j0 + tid, keys_there = p.base + p.rows;
  if (tid >= kTile || j >= keys_there) return;
  float total = 0;
  for (int i = 0; i < kSide; ++i) total += columns[i][tid];
  float& out = p.sums[kv_head * p.stride + j];
  out = (j < p.base ? out : 0.0f) + total;
}

}  // namespace

void column_sums(const ColumnSumsParams& p, const Launch& how) {
  if (p.rows == 0) return;
  const auto tiles = [](int n) { return static_cast<unsigned>((n + kTile - 1) / kTile); };
  with_half(p.type, [&](auto t) {
    with_head_dim(p.head_dim, [&](auto d) {
      using T = decltype(t);
      constexpr int D = decltype(d)::value;
      launch(how, "row_norms", row_norms_kernel<T, D>, dim3(tiles(p.rows), static_cast<unsigned>(p.n_heads)), unsigned{kSide * kSide}, 0, p);
      launch(how, "column_sums", column_sums_kernel<T, D>, dim3(tiles(p.base + p.rows), static_cast<unsigned>(p.n_kv_heads)),
             unsigned{kSide * kSide}, 0, p);
    });
  });
}

}  // namespace quest::cuda
