// What the naive kernels are written with: one thread per result, numbers in double precision, a cache seen token by token.
#pragma once

#include "cuda/device.cuh"
#include "naive_kernels.h"

namespace quest::cuda::test {

template <class F>
struct Each {
  F f;
  int64_t n;
};

template <class F>
__global__ void each_kernel(Each<F> e) {
  dependency_wait();
  dependency_release();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  if (i < e.n) e.f(i);
}

// f(i) for i in [0, n), each by a thread of its own.
template <class F>
void each(const Launch& how, const char* name, int64_t n, const F& f) {
  if (n > 0) launch(how, name, each_kernel<F>, dim3(static_cast<unsigned>((n + 31) / 32)), 32, 0, Each<F>{f, n});
}

__device__ inline double number(const void* from, int64_t i, Half type) {
  return type == Half::fp16 ? to_float(static_cast<const __half*>(from)[i]) : to_float(static_cast<const __nv_bfloat16*>(from)[i]);
}
__device__ inline void put(void* to, int64_t i, double x, Half type) {
  if (type == Half::fp16) {
    static_cast<__half*>(to)[i] = from_float<__half>(static_cast<float>(x));
  } else {
    static_cast<__nv_bfloat16*>(to)[i] = from_float<__nv_bfloat16>(static_cast<float>(x));
  }
}

// One KV head of a branch's cache.
struct View {
  const void* kv;
  const int32_t* table;
  int kv_heads, head, page_size, d;
  Half type;
  __device__ int64_t index(int token, int value, int column) const {
    return (((static_cast<int64_t>(table[token / page_size]) * kv_heads + head) * 2 + value) * page_size + token % page_size) * d + column;
  }
  __device__ double key(int token, int column) const { return number(kv, index(token, 0, column), type); }
  __device__ double value(int token, int column) const { return number(kv, index(token, 1, column), type); }
  // q . k / sqrt(d), for the query that starts at q[at].
  __device__ double logit(const void* q, int64_t at, int token) const {
    double dot = 0;
    for (int c = 0; c < d; ++c) dot += number(q, at + c, type) * key(token, c);
    return dot / sqrt(static_cast<double>(d));
  }
};

__device__ inline View view_of(const DecodeRow& row, const DecodeShape& s, const void* kv, int head) {
  return {kv, row.table, s.n_kv_heads, head / (s.n_heads / s.n_kv_heads), 1 << s.page_shift, s.head_dim, s.type};
}
__device__ inline int pages_of(const DecodeRow& row, const DecodeShape& s) { return (row.n + (1 << s.page_shift) - 1) >> s.page_shift; }
__device__ inline Reading reading_of(const DecodeRow& row, const DecodeShape& s) { return s.layer < row.skip_layers ? Reading::dense : row.reading; }

// softmax(logits) V, token by token.
struct Attention {
  double top = kMinusInfinity, sum = 0, values[128] = {};
  __device__ void add(const View& view, double logit, int token) {
    const double higher = logit > top ? logit : top, old = sum > 0 ? exp(top - higher) : 0.0, weight = exp(logit - higher);
    sum = sum * old + weight;
    for (int c = 0; c < view.d; ++c) values[c] = values[c] * old + weight * view.value(token, c);
    top = higher;
  }
  __device__ void store(void* out, int64_t at, const View& view) const {
    for (int c = 0; c < view.d; ++c) put(out, at + c, values[c] / sum, view.type);
  }
};

}  // namespace quest::cuda::test
