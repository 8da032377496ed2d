// What benchmarks need on the device: random numbers for weights and caches, and a read of everything, which is the
// bandwidth that other times are held against.
//
//   fill_random  out[i] = offset + scale * x_i, x_i about normal (sum of four uniform hashes), the same for the same seed
//   int4_random  random 4-bit weights around zero, one scale for all, in int4.h's layout
//   read_all     reads `bytes` once, 16 bytes per lane, eight loads in flight
#include "cuda/dispatch.cuh"
#include "cuda/int4.h"

namespace quest::cuda {

namespace {

constexpr unsigned kThreads = 256;

__device__ inline uint32_t hash(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ x >> 16;
}

template <class T>
__global__ void fill_kernel(FillParams p) {
  dependency_wait();
  dependency_release();
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < p.n; i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const uint32_t a = hash(static_cast<uint32_t>(i) ^ hash(p.seed + static_cast<uint32_t>(i >> 32)));
    const int sum = static_cast<int>((a & 255) + (a >> 8 & 255) + (a >> 16 & 255) + (a >> 24)) - 510;
    // Four uniform numbers of 0..255 have a standard deviation of 147.8.
    const float x = p.offset + p.scale * static_cast<float>(sum) * (1.0f / 147.8f);
    if (p.fp32) {
      static_cast<float*>(p.out)[i] = x;
    } else {
      static_cast<T*>(p.out)[i] = from_float<T>(x);
    }
  }
}

__global__ void QUEST_LAUNCH_BOUNDS(kThreads) int4_random_kernel(Int4RandomParams p) {
  dependency_wait();
  dependency_release();
  const int words = kInt4Outputs * kInt4Inputs / 8, all = int4_block_bytes(p.group) / 4;
  auto* block = static_cast<uint32_t*>(p.out) + static_cast<int64_t>(blockIdx.x) * all;
  const int unit = static_cast<int>(blockIdx.x) % int4_units(p.k);
  // Weights of -8..7 have a standard deviation of 4.61; a zero of 8 makes a mean of -0.5, no more.
  const uint32_t scale_and_zero = pack2<__half>(p.deviation / 4.61f, 8);
  for (int i = static_cast<int>(threadIdx.x); i < all; i += static_cast<int>(kThreads)) {
    const bool inside = unit * kInt4Inputs + (i - words) / kInt4Outputs * p.group < p.k;
    block[i] = i < words ? hash(static_cast<uint32_t>(i) ^ hash(p.seed + blockIdx.x)) : inside ? scale_and_zero : 0;
  }
}

__global__ void QUEST_LAUNCH_BOUNDS(kThreads) read_kernel(ReadParams p) {
  dependency_wait();
  dependency_release();
  constexpr int kLoads = 8;
  const auto* data = static_cast<const uint4*>(p.data);
  const int64_t n = p.bytes / 16, stride = static_cast<int64_t>(gridDim.x) * kThreads * kLoads;
  uint32_t bits = 0;
  for (int64_t base = static_cast<int64_t>(blockIdx.x) * kThreads * kLoads + threadIdx.x; base < n; base += stride) {
    uint4 v[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int64_t at = base + i * static_cast<int64_t>(kThreads);
      v[i] = at < n ? load_streaming(data + at) : uint4{0, 0, 0, 0};
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) bits |= v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
  }
  if (bits == 0xdeadbeefu) *p.sink = bits;
}

}  // namespace

void fill_random(const FillParams& p, const Launch& how) {
  const int64_t blocks = (p.n + kThreads - 1) / kThreads;
  with_half(p.type, [&](auto t) {
    launch(how, "fill_random", fill_kernel<decltype(t)>, dim3(static_cast<unsigned>(blocks < 16384 ? blocks : 16384)), kThreads, 0, p);
  });
}

void int4_random(const Int4RandomParams& p, const Launch& how) {
  const auto blocks = static_cast<unsigned>(int4_tiles(p.n)) * static_cast<unsigned>(int4_units(p.k));
  launch(how, "int4_random", int4_random_kernel, dim3(blocks), kThreads, 0, p);
}

void read_all(const ReadParams& p, const Launch& how) {
  launch(how, "read_all", read_kernel, dim3(static_cast<unsigned>(p.sms * 8)), kThreads, 0, p);
}

}  // namespace quest::cuda
