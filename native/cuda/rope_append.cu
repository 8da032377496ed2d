// Rotary embedding of fresh queries and keys, and their way into the cache: K and V into the page, K into its bounds.
//
//   angle(position, i) = position * inv_freq[i];  (a, b) -> (a cos - b sin, b cos + a sin) for the pair (i, i + d/2)
//
// qkv [rows, (H + 2G) d] half; queries are rotated in place (streaming rows get a second copy, rotated to the last cache
// position, for the sinks). One block per (rows of one page, head): keys of a page come from one block, so its minima and
// maxima need no atomics; they are taken over the keys as stored. Thread i < d/2 owns the pair (i, i + d/2).
// A model with a QKV bias has it added here, in fp32 before the rotation, where queries, keys and values pass by anyway.
//
// Bytes: for one decode row of 32/32 heads of 128: 24 KB read, 40 KB written: launch latency, about 2 us.
// Test: quest_cuda_tests --gtest_filter='RopeAppend*'.
#include "cuda/dispatch.cuh"

namespace quest::cuda {

namespace {

constexpr unsigned kThreads = 64;

template <class T>
__global__ void rope_append_kernel(AppendParams p) {
  dependency_wait();
  dependency_release();
  const AppendTask task = p.tasks[blockIdx.x];
  const int head = static_cast<int>(blockIdx.y);  // queries first, then KV heads
  const int d = p.head_dim, half = d / 2, i = static_cast<int>(threadIdx.x);
  if (i >= half) return;
  const int64_t stride = static_cast<int64_t>(p.n_heads + 2 * p.n_kv_heads) * d;
  const float frequency = p.inv_freq[i];
  const auto rotate = [&](int position, float a, float b, float& x, float& y) {
    // fp32 as in the reference implementations: at position 100 000 the angle itself is only good to 0.008.
    float sine, cosine;
    sincosf(static_cast<float>(position) * frequency, &sine, &cosine);
    cosine *= p.attention_factor;
    sine *= p.attention_factor;
    x = a * cosine - b * sine;
    y = b * cosine + a * sine;
  };

  // Of this head's pair in queries, keys or values (`which` counts heads along qkv).
  const auto bias = [&](int which, int column) { return p.bias ? p.bias[static_cast<int64_t>(which) * d + column] : 0.0f; };

  if (head < p.n_heads) {
    const float bias_a = bias(head, i), bias_b = bias(head, i + half);
    for (int r = 0; r < task.count; ++r) {
      T* q = static_cast<T*>(p.qkv) + (task.row + r) * stride + static_cast<int64_t>(head) * d;
      const float a = to_float(q[i]) + bias_a, b = to_float(q[i + half]) + bias_b;
      float x, y;
      if (task.sink_position >= 0) {
        T* sink = static_cast<T*>(p.q_sinks) + (static_cast<int64_t>(task.row + r) * p.n_heads + head) * d;
        rotate(task.sink_position, a, b, x, y);
        sink[i] = from_float<T>(x);
        sink[i + half] = from_float<T>(y);
      }
      rotate(task.position + r, a, b, x, y);
      q[i] = from_float<T>(x);
      q[i + half] = from_float<T>(y);
    }
    return;
  }

  const int kv_head = head - p.n_heads;
  const int64_t page_half = static_cast<int64_t>(p.page_size) * d;
  T* page = static_cast<T*>(p.kv) + (static_cast<int64_t>(task.page) * p.n_kv_heads + kv_head) * 2 * page_half;
  T* low = static_cast<T*>(p.metadata) + (static_cast<int64_t>(kv_head) * p.pages + task.page) * 2 * d;
  T* high = low + d;
  const int first = task.position % p.page_size;
  const float bias_a = bias(head, i), bias_b = bias(head, i + half);
  const float value_a = bias(head + p.n_kv_heads, i), value_b = bias(head + p.n_kv_heads, i + half);
  float low_a = 0, low_b = 0, high_a = 0, high_b = 0;
  if (first > 0) low_a = to_float(low[i]), low_b = to_float(low[i + half]), high_a = to_float(high[i]), high_b = to_float(high[i + half]);
  for (int r = 0; r < task.count; ++r) {
    const T* k = static_cast<const T*>(p.qkv) + (task.row + r) * stride + static_cast<int64_t>(p.n_heads + kv_head) * d;
    const T* v = k + static_cast<int64_t>(p.n_kv_heads) * d;
    T* key = page + static_cast<int64_t>(first + r) * d;
    T* value = key + page_half;
    float x, y;
    rotate(task.position + r, to_float(k[i]) + bias_a, to_float(k[i + half]) + bias_b, x, y);
    key[i] = from_float<T>(x);
    key[i + half] = from_float<T>(y);
    value[i] = from_float<T>(to_float(v[i]) + value_a);
    value[i + half] = from_float<T>(to_float(v[i + half]) + value_b);
    x = to_float(key[i]);
    y = to_float(key[i + half]);
    const bool fresh = first + r == 0;
    low_a = fresh ? x : fminf(low_a, x);
    low_b = fresh ? y : fminf(low_b, y);
    high_a = fresh ? x : fmaxf(high_a, x);
    high_b = fresh ? y : fmaxf(high_b, y);
  }
  low[i] = from_float<T>(low_a);
  low[i + half] = from_float<T>(low_b);
  high[i] = from_float<T>(high_a);
  high[i + half] = from_float<T>(high_b);
}

}  // namespace

void rope_append(const AppendParams& p, const Launch& how) {
  const dim3 grid(static_cast<unsigned>(p.n_tasks), static_cast<unsigned>(p.n_heads + p.n_kv_heads));
  with_half(p.type, [&](auto t) { launch(how, "rope_append", rope_append_kernel<decltype(t)>, grid, kThreads, 0, p); });
}

}  // namespace quest::cuda
