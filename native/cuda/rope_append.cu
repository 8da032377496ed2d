// Rotary embedding of fresh queries and keys, and their way into the cache: K and V into the page, K into its bounds.
//
//   angle(position, i) = position * inv_freq[i];  (a, b) -> (a cos - b sin, b cos + a sin) for the pair (i, i + d/2)
//
// qkv [rows, (H + 2G) d] half; queries are rotated in place (streaming rows get a second copy, rotated to the last cache
// position, for the sinks). A block takes the rows of one page and some of the heads: keys of a page and head come from one
// block, so its minima and maxima need no atomics; they are taken over the keys as stored. A thread holds 8 pairs
// (i, i + d/2) of a row, so that it moves 16 bytes at a time; sines and cosines are worked out once for all heads of the block.
// A model with a QKV bias has it added here, in fp32 before the rotation, where queries, keys and values pass by anyway.
//
// Bytes: for one decode row of 32/32 heads of 128: 24 KB read, 40 KB written: launch latency, about 2 us. For 2048 rows:
// 50 MB read and 50 MB written, 33 us at 3.0 TB/s.
// Test: quest_cuda_tests --gtest_filter='RopeAppend*'.
#include "cuda/dispatch.cuh"

namespace quest::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kPairs = 8;                  // of a thread
constexpr int kTable = kThreads * kPairs;  // sines and cosines of the rows that pass at once
constexpr int kManyTasks = 32;             // from here on a block takes several heads
constexpr int kHeadsPerBlock = 8;

// Eight numbers and their bias, or null.
template <class T>
__device__ inline void unpack_biased(const uint4& v, const float* bias, float (&out)[kPairs]) {
  unpack8<T>(v, out);
  if (!bias) return;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) out[i] += bias[i];
}

template <class T>
__device__ inline void rotate(const float2* turn, const uint4& low, const uint4& high, const float* bias, int half, uint4& out_low, uint4& out_high) {
  float a[kPairs], b[kPairs];
  unpack_biased<T>(low, bias, a);
  unpack_biased<T>(high, bias ? bias + half : nullptr, b);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const float x = a[i] * turn[i].x - b[i] * turn[i].y;
    b[i] = b[i] * turn[i].x + a[i] * turn[i].y;
    a[i] = x;
  }
  out_low = pack8<T>(a);
  out_high = pack8<T>(b);
}

template <class T>
__global__ void QUEST_LAUNCH_BOUNDS(kThreads) rope_append_kernel(AppendParams p) {
  __shared__ float2 table[kTable], sink_table[128 / 2];  // [rows, d / 2] of (cosine, sine); of the sink position
  __shared__ uint4 stored[2 * kThreads];                 // [rows, d] half: keys as stored
  dependency_wait();
  dependency_release();
  const AppendTask task = p.tasks[blockIdx.x];
  const int d = p.head_dim, half = d / 2, lanes = half / kPairs, rows_at_once = kThreads / lanes;
  const int tid = static_cast<int>(threadIdx.x), my_row = tid / lanes, column = tid % lanes * kPairs;
  const int64_t stride = static_cast<int64_t>(p.n_heads + 2 * p.n_kv_heads) * d, page_half = static_cast<int64_t>(p.page_size) * d;
  const int first = task.position % p.page_size;
  const auto turn = [&](int position, int i) {
    // fp32 as in the reference implementations: at position 100 000 the angle itself is only good to 0.008.
    float sine, cosine;
    sincosf(static_cast<float>(position) * p.inv_freq[i], &sine, &cosine);
    return float2{cosine * p.attention_factor, sine * p.attention_factor};
  };
  if (task.sink_position >= 0) {
    for (int i = tid; i < half; i += kThreads) sink_table[i] = turn(task.sink_position, i);
  }

  int turned = -1;  // the table holds the rows from here on, `turns` this thread's of them
  float2 turns[kPairs];
  for (int head = static_cast<int>(blockIdx.y); head < p.n_heads + p.n_kv_heads; head += static_cast<int>(gridDim.y)) {
    const int kv_head = head - p.n_heads;  // queries first, then KV heads
    T* page = static_cast<T*>(p.kv) + (static_cast<int64_t>(task.page) * p.n_kv_heads + max(kv_head, 0)) * 2 * page_half;
    T* bounds = static_cast<T*>(p.metadata) + (static_cast<int64_t>(max(kv_head, 0)) * p.pages + task.page) * 2 * d;
    float low = 0, high = 0;  // of column tid
    if (kv_head >= 0 && first > 0 && tid < d) low = to_float(bounds[tid]), high = to_float(bounds[d + tid]);
    for (int row0 = 0; row0 < task.count; row0 += rows_at_once) {
      const int rows = min(rows_at_once, task.count - row0);
      if (turned != row0) {
        __syncthreads();
        for (int i = tid; i < rows * half; i += kThreads) table[i] = turn(task.position + row0 + i / half, i % half);
        turned = row0;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < kPairs; ++i) turns[i] = my_row < rows ? table[my_row * half + column + i] : float2{1, 0};
      }
      if (my_row < rows) {
        const int64_t row = task.row + row0 + my_row;
        T* from = static_cast<T*>(p.qkv) + row * stride + static_cast<int64_t>(head) * d + column;
        const uint4 a = *reinterpret_cast<const uint4*>(from), b = *reinterpret_cast<const uint4*>(from + half);
        const float* bias = p.bias ? p.bias + static_cast<int64_t>(head) * d + column : nullptr;  // in the order of qkv
        uint4 x, y;
        rotate<T>(turns, a, b, bias, half, x, y);
        if (kv_head < 0) {
          *reinterpret_cast<uint4*>(from) = x;
          *reinterpret_cast<uint4*>(from + half) = y;
          if (task.sink_position >= 0) {
            T* sink = static_cast<T*>(p.q_sinks) + (row * p.n_heads + head) * d + column;
            rotate<T>(sink_table + column, a, b, bias, half, x, y);
            *reinterpret_cast<uint4*>(sink) = x;
            *reinterpret_cast<uint4*>(sink + half) = y;
          }
        } else {
          const T* values = from + static_cast<int64_t>(p.n_kv_heads) * d;
          uint4 v = *reinterpret_cast<const uint4*>(values), w = *reinterpret_cast<const uint4*>(values + half);
          if (bias) {
            const float* value_bias = bias + static_cast<int64_t>(p.n_kv_heads) * d;
            float f[kPairs];
            unpack_biased<T>(v, value_bias, f);
            v = pack8<T>(f);
            unpack_biased<T>(w, value_bias + half, f);
            w = pack8<T>(f);
          }
          T* key = page + static_cast<int64_t>(first + row0 + my_row) * d + column;
          *reinterpret_cast<uint4*>(key) = x;
          *reinterpret_cast<uint4*>(key + half) = y;
          *reinterpret_cast<uint4*>(key + page_half) = v;
          *reinterpret_cast<uint4*>(key + page_half + half) = w;
          stored[(my_row * d + column) / 8] = x;
          stored[(my_row * d + column + half) / 8] = y;
        }
      }
      if (kv_head < 0) continue;
      __syncthreads();
      if (tid < d) {
        const T* keys = reinterpret_cast<const T*>(stored) + tid;
        for (int r = 0; r < rows; ++r) {
          const float x = to_float(keys[r * d]);
          const bool fresh = first + row0 + r == 0;
          low = fresh ? x : fminf(low, x);
          high = fresh ? x : fmaxf(high, x);
        }
      }
      __syncthreads();
    }
    if (kv_head < 0 || tid >= d) continue;
    bounds[tid] = from_float<T>(low);
    bounds[d + tid] = from_float<T>(high);
  }
}

}  // namespace

void rope_append(const AppendParams& p, const Launch& how) {
  const int heads = p.n_heads + p.n_kv_heads, per_block = p.n_tasks >= kManyTasks ? kHeadsPerBlock : 1;
  const dim3 grid(static_cast<unsigned>(p.n_tasks), static_cast<unsigned>((heads + per_block - 1) / per_block));
  with_half(p.type, [&](auto t) { launch(how, "rope_append", rope_append_kernel<decltype(t)>, grid, kThreads, 0, p); });
}

}  // namespace quest::cuda
