// Runs CUDA kernels on the CPU, for machines without a GPU: every thread of a block is a coroutine, blocks run one after
// another, barriers and warp collectives are exact. It finds wrong indexing, missing barriers (run it in both orders, see
// QUEST_EMULATE_ORDER) and out-of-bounds accesses (build it with AddressSanitizer); it says nothing about speed.
//
// Limits: whole warps take part in every collective; no shared-memory races between barriers are modelled beyond the order.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#undef __shared__
#define __shared__ static
#undef __global__
#define __global__
#undef __device__
#define __device__
#undef __align__
#define __align__(n) __attribute__((aligned(n)))

namespace quest::cuda::emulation {

struct Slot {
  uint32_t words[8];
};

extern uint3 thread_index, block_index;
extern dim3 block_dim, grid_dim;

void launch(cudaStream_t stream, dim3 grid, unsigned threads, size_t shared_bytes, std::function<void()> kernel, unsigned side_by_side = 0);
unsigned char* dynamic_shared();
void block_barrier();
// Lets the other threads of the blocks that run side by side go on: for loops that wait for what another block stores.
void pause();

// Blocks side by side, `side_by_side` of them along x, each with its own dynamic shared memory; kernels launched so must not
// use static shared memory, which all blocks here share. A barrier of their threads:
void wait_for_neighbours();
// Every lane of the warp gives a slot and gets all 32.
const Slot* exchange(const Slot& mine);
int lane();

template <class V>
V from_lane(V value, int source) {
  static_assert(sizeof(V) <= sizeof(Slot));
  Slot s{};
  std::memcpy(&s, &value, sizeof(V));
  const Slot* all = exchange(s);
  V out;
  std::memcpy(&out, &all[source & 31], sizeof(V));
  return out;
}

template <class T>
void mma16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const Slot* all = exchange({{a[0], a[1], a[2], a[3], b0, b1, 0, 0}});
  const auto number = [](uint32_t word, int half) {
    const auto bits = static_cast<uint16_t>(word >> (16 * half));
    T t;
    std::memcpy(static_cast<void*>(&t), &bits, 2);
    return static_cast<float>(t);
  };
  const int row = lane() / 4, column = lane() % 4 * 2;
  for (int i = 0; i < 4; ++i) {
    const int r = row + i / 2 * 8, n = column + i % 2;
    float sum = 0;
    for (int k = 0; k < 16; ++k) {
      const float x = number(all[r % 8 * 4 + k % 8 / 2].words[r / 8 + k / 8 * 2], k % 2);
      const float y = number(all[n * 4 + k % 8 / 2].words[4 + k / 8], k % 2);
      sum += x * y;
    }
    c[i] += sum;
  }
}

inline uint32_t transpose8x8(uint32_t pair) {
  Slot s{};
  s.words[0] = pair;
  const Slot* all = exchange(s);
  const int row = lane() / 4, column = lane() % 4 * 2;
  const auto element = [&](int i, int j) { return all[i * 4 + j / 2].words[0] >> (16 * (j % 2)) & 0xffffu; };
  return element(column, row) | element(column + 1, row) << 16;
}

inline void load_matrix4(uint32_t (&r)[4], const void* row, bool transposed) {
  Slot s{};
  std::memcpy(&s, &row, sizeof(row));
  const Slot* all = exchange(s);
  const int l = lane();
  for (int m = 0; m < 4; ++m) {
    const auto element = [&](int i, int j) -> uint32_t {
      const uint16_t* p;
      std::memcpy(&p, &all[m * 8 + i], sizeof(p));
      return p[j];
    };
    const int a = l / 4, b = l % 4 * 2;
    r[m] = transposed ? element(b, a) | element(b + 1, a) << 16 : element(a, b) | element(a, b + 1) << 16;
  }
}

}  // namespace quest::cuda::emulation

#define threadIdx ::quest::cuda::emulation::thread_index
#define blockIdx ::quest::cuda::emulation::block_index
#define blockDim ::quest::cuda::emulation::block_dim
#define gridDim ::quest::cuda::emulation::grid_dim

inline void __syncthreads() { quest::cuda::emulation::block_barrier(); }
inline void __syncwarp(unsigned = 0xffffffffu) { quest::cuda::emulation::from_lane(0, 0); }
template <class V>
V __shfl_sync(unsigned, V v, int source) {
  return quest::cuda::emulation::from_lane(v, source);
}
template <class V>
V __shfl_xor_sync(unsigned, V v, int mask) {
  return quest::cuda::emulation::from_lane(v, quest::cuda::emulation::lane() ^ mask);
}
template <class V>
V __shfl_up_sync(unsigned, V v, int delta) {
  const int l = quest::cuda::emulation::lane();
  return quest::cuda::emulation::from_lane(v, l >= delta ? l - delta : l);
}
inline unsigned __reduce_add_sync(unsigned, unsigned v) {
  quest::cuda::emulation::Slot s{};
  s.words[0] = v;
  const auto* all = quest::cuda::emulation::exchange(s);
  unsigned sum = 0;
  for (int i = 0; i < 32; ++i) sum += all[i].words[0];
  return sum;
}
inline unsigned __reduce_min_sync(unsigned, unsigned v) {
  quest::cuda::emulation::Slot s{};
  s.words[0] = v;
  const auto* all = quest::cuda::emulation::exchange(s);
  for (int i = 0; i < 32; ++i) v = std::min(v, all[i].words[0]);
  return v;
}
inline unsigned __reduce_max_sync(unsigned, unsigned v) { return ~__reduce_min_sync(0, ~v); }
inline unsigned __ballot_sync(unsigned, bool v) {
  quest::cuda::emulation::Slot s{};
  s.words[0] = v;
  const auto* all = quest::cuda::emulation::exchange(s);
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i) bits |= all[i].words[0] << i;
  return bits;
}
template <class V>
V atomicAdd(V* p, V v) {
  const V old = *p;
  *p = old + v;
  return old;
}
inline unsigned atomicInc(unsigned* p, unsigned limit) {
  const unsigned old = *p;
  *p = old >= limit ? 0 : old + 1;
  return old;
}
inline void __threadfence() {}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  const auto fma = [](__half x, __half y, __half z) { return __float2half_rn(std::fma(__half2float(x), __half2float(y), __half2float(z))); };
  return {fma(a.x, b.x, c.x), fma(a.y, b.y, c.y)};
}
inline float __expf(float x) { return std::exp(x); }
using std::max;
using std::min;
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline int __clz(int x) { return __builtin_clz(static_cast<unsigned>(x)); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
template <class V>
V __ldg(const V* p) {
  return *p;
}
template <class V>
V __ldcg(const V* p) {
  return *p;
}
