// RMSNorm of a matrix-vector product's input on its way into shared memory. Every block norms it for itself: 16 KB from L2 cost
// less than a kernel of its own.
//
// norm_row reads past L1: in a chain of products other multiprocessors wrote these numbers while this kernel ran.
#pragma once

#include "cuda/device.cuh"

namespace quest::cuda {

// Calls put(i, a, b) with elements i and i + 1 of rmsnorm(x) * norm_weight, each pair from one thread. k a multiple of 4. scratch: see
// block_sum; every thread of the block takes part; ends with a barrier.
template <int kThreads, class Put>
__device__ inline void norm_row(const float* x, const float* norm_weight, int k, float eps, float* scratch, Put&& put) {
  const int tid = static_cast<int>(threadIdx.x);
  float squares = 0;
  for (int i = tid * 4; i < k; i += kThreads * 4) {
    const float4 v = __ldcg(reinterpret_cast<const float4*>(x + i));
    squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  const float scale = rsqrtf(block_sum(squares, scratch) / static_cast<float>(k) + eps);
  for (int i = tid * 2; i < k; i += kThreads * 2) {
    const float2 v = __ldcg(reinterpret_cast<const float2*>(x + i)), w = *reinterpret_cast<const float2*>(norm_weight + i);
    put(i, v.x * scale * w.x, v.y * scale * w.y);
  }
  __syncthreads();  // scratch is used again for the next row
}

// The same in two parts for kernels with registers to spare: the norm's weights, which depend on nothing, are asked for before the
// predecessor has ended, and up to 4 kHeld floats per thread stay in registers between the sum and the scaling.
template <int kThreads>
class NormPrologue {
 public:
  static constexpr int kHeld = 1024 / kThreads;  // 4096 columns

  // norm_weight [k], k a multiple of 4.
  __device__ NormPrologue(const float* norm_weight, int k) : norm_weight_(norm_weight), k_(k) {
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      if (column(j) < k_) weight_[j] = *reinterpret_cast<const float4*>(norm_weight_ + column(j));
    }
  }

  // As norm_row, to half at `to`.
  template <class T>
  __device__ void row(const float* x, float eps, float* scratch, T* to) const {
    float4 held[kHeld];
    float squares = 0;
    const auto add = [&](const float4& v) { squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; };
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      if (column(j) < k_) add(held[j] = *reinterpret_cast<const float4*>(x + column(j)));
    }
    for (int i = column(kHeld); i < k_; i += kThreads * 4) add(*reinterpret_cast<const float4*>(x + i));
    const float scale = rsqrtf(block_sum(squares, scratch) / static_cast<float>(k_) + eps);
    const auto put = [&](int i, const float4& v, const float4& w) {
      *reinterpret_cast<uint2*>(to + i) = uint2{pack2<T>(v.x * scale * w.x, v.y * scale * w.y), pack2<T>(v.z * scale * w.z, v.w * scale * w.w)};
    };
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      if (column(j) < k_) put(column(j), held[j], weight_[j]);
    }
    for (int i = column(kHeld); i < k_; i += kThreads * 4) put(i, *reinterpret_cast<const float4*>(x + i), *reinterpret_cast<const float4*>(norm_weight_ + i));
    __syncthreads();  // scratch is used again for the next row
  }

 private:
  __device__ static int column(int j) { return (j * kThreads + static_cast<int>(threadIdx.x)) * 4; }

  const float* norm_weight_;
  int k_;
  float4 weight_[kHeld];
};

}  // namespace quest::cuda
