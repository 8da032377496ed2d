// Rotary embedding of fresh queries and keys, and their way into the cache: K and V into the page, K into its bounds.
//
//   angle(position, i) = position * inv_freq[i];  (a, b) -> (a cos - b sin, b cos + a sin) for the pair (i, i + d/2)
//
// qkv [rows, (H + 2G) d] half; queries are rotated in place (streaming rows get a second copy, rotated to the last cache
// position, for the sinks). One block per (rows of one page, head): keys of a page come from one block, so its minima and
// maxima need no atomics; they are taken over the keys as stored. Thread i < d/2 owns the pair (i, i + d/2).
// A model with a QKV bias has it added here, in fp32 before the rotation, where queries, keys and values pass by anyway.
// A single step whose every row selects pages needs no such kernel: the fused Quest step does the same (sparse_attention.cu),
// by the code in rotary.cuh.
//
// Bytes: for one decode row of 32/32 heads of 128: 24 KB read, 40 KB written: launch latency, about 2 us.
// Test: quest_cuda_tests --gtest_filter='RopeAppend*'.
#include "cuda/dispatch.cuh"
#include "cuda/rotary.cuh"

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
  const float frequency = p.inv_freq[i];
  const auto turn_of = [&](int position) { return rotary_turn(position, frequency, p.attention_factor); };
  if (head >= p.n_heads) return append_pair<T>(p, task, head - p.n_heads, i, turn_of);

  const int64_t stride = static_cast<int64_t>(p.n_heads + 2 * p.n_kv_heads) * d;
  const float bias_a = bias_at(p, head, i), bias_b = bias_at(p, head, i + half);
  for (int r = 0; r < task.count; ++r) {
    T* q = static_cast<T*>(p.qkv) + (task.row + r) * stride + static_cast<int64_t>(head) * d;
    const float a = to_float(q[i]) + bias_a, b = to_float(q[i + half]) + bias_b;
    if (task.sink_position >= 0) {
      T* sink = static_cast<T*>(p.q_sinks) + (static_cast<int64_t>(task.row + r) * p.n_heads + head) * d;
      const float2 turned = rotate(a, b, turn_of(task.sink_position));
      sink[i] = from_float<T>(turned.x);
      sink[i + half] = from_float<T>(turned.y);
    }
    const float2 turned = rotate(a, b, turn_of(task.position + r));
    q[i] = from_float<T>(turned.x);
    q[i + half] = from_float<T>(turned.y);
  }
}

}  // namespace

void rope_append(const AppendParams& p, const Launch& how) {
  const dim3 grid(static_cast<unsigned>(p.n_tasks), static_cast<unsigned>(p.n_heads + p.n_kv_heads));
  with_half(p.type, [&](auto t) { launch(how, "rope_append", rope_append_kernel<decltype(t)>, grid, kThreads, 0, p); });
}

}  // namespace quest::cuda
