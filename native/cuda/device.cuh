// What every kernel file starts from: number formats, warp reductions, asynchronous copies, tensor-core fragments.
//
// The same kernel sources also compile as plain C++ against tests/cuda_emulation (QUEST_EMULATE), where each CUDA thread is
// a coroutine; the few places that need PTX therefore live here, in board.cuh, and nowhere else.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#ifdef QUEST_EMULATE
#include "tests/cuda_emulation/emulation.h"
#define QUEST_LAUNCH_BOUNDS(...)
#else
#define QUEST_LAUNCH_BOUNDS(...) __launch_bounds__(__VA_ARGS__)
#endif

namespace quest::cuda {

constexpr unsigned kFull = 0xffffffffu;
constexpr float kMinusInfinity = -__builtin_huge_valf();
constexpr float kLog2e = 1.4426950408889634f;

// Number formats ------------------------------------------------------------------------------------------------------

template <class T>
struct Half2;  // two T in one 32-bit register
template <>
struct Half2<__half> {
  using type = __half2;
};
template <>
struct Half2<__nv_bfloat16> {
  using type = __nv_bfloat162;
};

__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float to_float(float x) { return x; }
__device__ inline float2 to_float2(__half2 x) { return __half22float2(x); }
__device__ inline float2 to_float2(__nv_bfloat162 x) { return __bfloat1622float2(x); }

template <class T>
__device__ inline T from_float(float x);
template <>
__device__ inline __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}

template <class T>
__device__ inline uint32_t pack2(float a, float b) {
  const T lo = from_float<T>(a), hi = from_float<T>(b);
  uint16_t l, h;
  __builtin_memcpy(&l, &lo, 2);
  __builtin_memcpy(&h, &hi, 2);
  return static_cast<uint32_t>(l) | static_cast<uint32_t>(h) << 16;
}

// Eight 16-bit numbers in 16 bytes.
template <class T>
__device__ inline void unpack8(const uint4& v, float (&out)[8]) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    typename Half2<T>::type pair;
    __builtin_memcpy(static_cast<void*>(&pair), &words[i], 4);
    const float2 f = to_float2(pair);
    out[2 * i] = f.x;
    out[2 * i + 1] = f.y;
  }
}
template <class T>
__device__ inline uint4 pack8(const float (&f)[8]) {
  return {pack2<T>(f[0], f[1]), pack2<T>(f[2], f[3]), pack2<T>(f[4], f[5]), pack2<T>(f[6], f[7])};
}

// Memory --------------------------------------------------------------------------------------------------------------

#ifdef QUEST_EMULATE
inline unsigned char* dynamic_shared() { return emulation::dynamic_shared(); }
inline uint4 load_streaming(const void* p) { return *static_cast<const uint4*>(p); }
inline void copy_async16(void* shared, const void* global, bool valid) {
  if (valid) {
    __builtin_memcpy(shared, global, 16);
  } else {
    __builtin_memset(shared, 0, 16);
  }
}
inline void copy_async_commit() {}
inline void prefetch_to_l2(const void*, unsigned) {}
template <int kPending>
inline void copy_async_wait() {}
inline void dependency_wait() {}
inline void dependency_release() {}
inline float exp2_approx(float x) { return __builtin_exp2f(x); }
#else
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char quest_dynamic_shared[];
  return quest_dynamic_shared;
}
// 16 bytes that are read once: they should not push anything else out of L1. Not ld.global.nc: with programmatic launch the
// kernel's life overlaps its predecessor's, which may have written these bytes.
__device__ inline uint4 load_streaming(const void* p) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
  return v;
}
// 16 bytes from global to shared memory in the background; zeros where not valid (the address is then not read).
__device__ inline void copy_async16(void* shared, const void* global, bool valid) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(valid ? 16 : 0) : "memory");
}
__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ inline void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
// Asks for bytes that will be read later: address and size are multiples of 16. One thread asks for all of them.
__device__ inline void prefetch_to_l2(const void* p, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes) : "memory");
#endif
}
// Programmatic dependent launch: a kernel may start while its predecessor runs, and must wait before it reads what that wrote.
__device__ inline void dependency_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void dependency_release() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
// 2^x to two units in the last place; 0 for -inf.
__device__ inline float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#endif

// Warps ---------------------------------------------------------------------------------------------------------------

__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) x += __shfl_xor_sync(kFull, x, o);
  return x;
}
__device__ inline float warp_max(float x) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) x = fmaxf(x, __shfl_xor_sync(kFull, x, o));
  return x;
}

// Sum over the block; every thread gets it. `scratch` [warps + 1] in shared memory, free again after the next barrier.
__device__ inline float block_sum(float x, float* scratch) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  x = warp_sum(x);
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  return warp_sum(lane < warps ? scratch[lane] : 0.0f);
}

// A 32-bit key that sorts like the float: NaN as -inf, -0 as +0. `ordered_key(a) > ordered_key(b)` iff a > b.
__device__ inline uint32_t ordered_key(float x) {
  if (x != x) x = kMinusInfinity;
  x += 0.0f;
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ inline float from_ordered_key(uint32_t key) {
  const uint32_t bits = key & 0x80000000u ? key ^ 0x80000000u : ~key;
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

// Tensor cores --------------------------------------------------------------------------------------------------------
// m16n8k16: lane l holds of A [16, 16] rows l/4 and l/4 + 8, columns 2(l%4) + {0, 1, 8, 9}; of B [16, 8] column l/4, rows
// 2(l%4) + {0, 1, 8, 9}; of C [16, 8] rows l/4 and l/4 + 8, columns 2(l%4) + {0, 1}.

#ifdef QUEST_EMULATE
template <class T>
inline void mma16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulation::mma16816<T>(c, a, b0, b1);
}
inline void load_matrix4(uint32_t (&r)[4], const void* row) { emulation::load_matrix4(r, row, false); }
inline void load_matrix4_transposed(uint32_t (&r)[4], const void* row) { emulation::load_matrix4(r, row, true); }
inline uint32_t transpose8x8(uint32_t pair) { return emulation::transpose8x8(pair); }
#else
template <class T>
__device__ inline void mma16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
__device__ inline void mma16816<__half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ inline void mma16816<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Four 8x8 matrices of 16-bit numbers: lane l points at row l%8 of matrix l/8. Lane l then holds of each matrix row l/4,
// columns 2(l%4) + {0, 1} (transposed: column l/4, rows 2(l%4) + {0, 1}).
__device__ inline void load_matrix4(uint32_t (&r)[4], const void* row) {
  const auto p = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(p));
}
__device__ inline void load_matrix4_transposed(uint32_t (&r)[4], const void* row) {
  const auto p = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(p));
}
// An 8x8 matrix of 16-bit numbers, lane l holding row l/4, columns 2(l%4) + {0, 1}, becomes its transpose.
__device__ inline uint32_t transpose8x8(uint32_t pair) {
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(pair));
  return out;
}
#endif

}  // namespace quest::cuda
