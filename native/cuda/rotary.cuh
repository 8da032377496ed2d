// Rotary embedding of a pair of columns (i, i + d/2) and a KV head's way into the cache, for the two kernels that do it,
// rope_append and the fused Quest step: what they store must be the same bits.
#pragma once

#include "cuda/device.cuh"
#include "cuda/kernels.h"

namespace quest::cuda {

// Cosine and sine of a pair's angle, times the attention factor. fp32 as in the reference implementations: at position
// 100 000 the angle itself is only good to 0.008.
__device__ inline float2 rotary_turn(int position, float frequency, float attention_factor) {
  float sine, cosine;
  sincosf(static_cast<float>(position) * frequency, &sine, &cosine);
  return {cosine * attention_factor, sine * attention_factor};
}

// (a cos - b sin, b cos + a sin). The fused operations are spelled out: left to the compiler, kernels could differ.
__device__ inline float2 rotate(float a, float b, float2 turn) {
  return {fmaf(a, turn.x, -(b * turn.y)), fmaf(b, turn.x, a * turn.y)};
}

// Of a column of a head; heads are counted along qkv: queries, keys, values.
__device__ inline float bias_at(const AppendParams& p, int head, int column) {
  return p.bias ? p.bias[static_cast<int64_t>(head) * p.head_dim + column] : 0.0f;
}

// Keys and values of a task, columns i and i + d/2 of one KV head, into the page and its bounds; the bounds are taken over the
// keys as stored. turn_of(position): rotary_turn of the pair.
template <class T, class TurnOf>
__device__ inline void append_pair(const AppendParams& p, const AppendTask& task, int kv_head, int i, TurnOf&& turn_of) {
  const int d = p.head_dim, half = d / 2, head = p.n_heads + kv_head;  // of the keys
  const int64_t stride = static_cast<int64_t>(p.n_heads + 2 * p.n_kv_heads) * d, page_half = static_cast<int64_t>(p.page_size) * d;
  T* page = static_cast<T*>(p.kv) + (static_cast<int64_t>(task.page) * p.n_kv_heads + kv_head) * 2 * page_half;
  T* low = static_cast<T*>(p.metadata) + (static_cast<int64_t>(kv_head) * p.pages + task.page) * 2 * d;
  T* high = low + d;
  const int first = task.position % p.page_size;
  const float bias_a = bias_at(p, head, i), bias_b = bias_at(p, head, i + half);
  const float value_a = bias_at(p, head + p.n_kv_heads, i), value_b = bias_at(p, head + p.n_kv_heads, i + half);
  float low_a = 0, low_b = 0, high_a = 0, high_b = 0;
  if (first > 0) low_a = to_float(low[i]), low_b = to_float(low[i + half]), high_a = to_float(high[i]), high_b = to_float(high[i + half]);
  for (int r = 0; r < task.count; ++r) {
    const T* k = static_cast<const T*>(p.qkv) + (task.row + r) * stride + static_cast<int64_t>(head) * d;
    const T* v = k + static_cast<int64_t>(p.n_kv_heads) * d;
    T* key = page + static_cast<int64_t>(first + r) * d;
    T* value = key + page_half;
    const float va = to_float(v[i]) + value_a, vb = to_float(v[i + half]) + value_b;
    const float2 turned = rotate(to_float(k[i]) + bias_a, to_float(k[i + half]) + bias_b, turn_of(task.position + r));
    const T ka = from_float<T>(turned.x), kb = from_float<T>(turned.y);
    key[i] = ka;
    key[i + half] = kb;
    value[i] = from_float<T>(va);
    value[i + half] = from_float<T>(vb);
    const float x = to_float(ka), y = to_float(kb);
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

}  // namespace quest::cuda
