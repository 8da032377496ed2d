// What only sm_90a has: warpgroup matrix products (wgmma), tensor-map copies (TMA), register hand-over.
//
// Tiles in shared memory are columns of 64 halves: [D / 64][rows][64], each row of 128 bytes with its 16-byte units permuted
// by the 128-byte swizzle (unit ^= row % 8), which a tensor map writes and a wgmma descriptor reads. A tile starts at a
// multiple of 1024 bytes. Device code here exists only in builds for sm_90a (QUEST_WGMMA_CODE).
#pragma once

#include <cuda.h>

#include <type_traits>

#include "cuda/mbarrier.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define QUEST_WGMMA_CODE
#endif

namespace quest::cuda {

constexpr int kSwizzleColumns = 64;  // halves in a swizzled row of 128 bytes
constexpr int kSwizzleBytes = 1024;  // eight such rows: the pattern's period

// Byte offset of 16-byte unit `unit` of row `row` in a column of 64 halves.
__host__ __device__ inline int swizzled(int row, int unit) { return row * 128 + ((unit ^ (row & 7)) << 4); }

#ifdef QUEST_WGMMA_CODE

// Barriers ------------------------------------------------------------------------------------------------------------

// barrier_arrive on the barrier at this address in another block of the cluster.
__device__ inline void barrier_arrive_at(uint64_t* barrier, unsigned block) {
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(block)
      : "memory");
}
__device__ inline void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
// Named barriers of 256 threads: two warpgroups take turns.
__device__ inline void turn_wait(int id) { asm volatile("bar.sync %0, 256;" ::"r"(id) : "memory"); }
__device__ inline void turn_give(int id) { asm volatile("bar.arrive %0, 256;" ::"r"(id) : "memory"); }
// A barrier of one warpgroup.
__device__ inline void warpgroup_sync(int id) { asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory"); }

// Ordinary writes to shared memory become visible to the copy engine and to wgmma.
__device__ inline void fence_async_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

template <int kRegisters>
__device__ inline void registers_give() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void registers_take() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Copies --------------------------------------------------------------------------------------------------------------

// One box of a two-dimensional tensor map to shared memory; rows past its end arrive as zeros.
__device__ inline void copy_box(void* shared, const CUtensorMap* map, int column, int row, uint64_t* barrier) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(shared)),
               "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier))
               : "memory");
}

// The same to this address in every block of `blocks` (bits), each block's barrier at this address told of its part.
__device__ inline void copy_box_to(void* shared, const CUtensorMap* map, int column, int row, uint64_t* barrier, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(
          shared_address(shared)),
      "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier)), "h"(blocks)
      : "memory");
}

// Matrix products -----------------------------------------------------------------------------------------------------
// Descriptors of operands in shared memory: address, the two strides, 128-byte swizzle.

// K-major [rows][64 of k]: groups of eight rows follow each other. A step of 16 along k adds 32 bytes.
__device__ inline uint64_t descriptor_k_major(uint32_t address) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | uint64_t{1} << 16 | uint64_t{kSwizzleBytes >> 4} << 32 | uint64_t{1} << 62;
}
// MN-major [k][64 of n]: the next 64 of n lie `column_bytes` further. A step of 16 along k adds 2048 bytes.
__device__ inline uint64_t descriptor_mn_major(uint32_t address, int column_bytes) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | static_cast<uint64_t>(column_bytes >> 4) << 16 | uint64_t{kSwizzleBytes >> 4} << 32 |
         uint64_t{1} << 62;
}

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from moving uses of registers that a product in flight reads or writes.
template <int N>
__device__ inline void pin(float (&registers)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}
template <int N>
__device__ inline void pin(uint32_t (&registers)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+r"(registers[i])::"memory");
}

// Lane l of warp w (of the warpgroup) holds of C [64, N] rows 16 w + l/4 and + 8: c[4 j + 2 half + e] is column
// 8 j + 2 (l % 4) + e of row + 8 half.

#define QUEST_C8(c, i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), "+f"(c[i + 7])
#define QUEST_C32(c, i) QUEST_C8(c, i), QUEST_C8(c, i + 8), QUEST_C8(c, i + 16), QUEST_C8(c, i + 24)
#define QUEST_R32 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define QUEST_R64 QUEST_R32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define QUEST_R128 \
  QUEST_R64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95," \
            "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"

// c [64, 128] (+)= a [64, 16] b [128, 16]^T, both K-major in shared memory.
template <class T>
__device__ inline void wgmma_shared(float (&c)[64], uint64_t a, uint64_t b, int accumulate) {
#define QUEST_WGMMA_SS(type)                                                                    \
  asm volatile(                                                                                 \
      "{\n"                                                                                     \
      ".reg .pred p;\n"                                                                         \
      "setp.ne.b32 p, %66, 0;\n"                                                                \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" QUEST_R64 "}, %64, %65, p, 1, 1, 0, 0;\n" \
      "}\n"                                                                                     \
      : QUEST_C32(c, 0), QUEST_C32(c, 32)                                                       \
      : "l"(a), "l"(b), "r"(accumulate))
  if constexpr (std::is_same_v<T, __half>) {
    QUEST_WGMMA_SS("f16");
  } else {
    QUEST_WGMMA_SS("bf16");
  }
#undef QUEST_WGMMA_SS
}

// The same for [64, 256].
template <class T>
__device__ inline void wgmma_shared(float (&c)[128], uint64_t a, uint64_t b, int accumulate) {
#define QUEST_WGMMA_SS(type)                                                                    \
  asm volatile(                                                                                 \
      "{\n"                                                                                     \
      ".reg .pred p;\n"                                                                         \
      "setp.ne.b32 p, %130, 0;\n"                                                               \
      "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {" QUEST_R128 "}, %128, %129, p, 1, 1, 0, 0;\n" \
      "}\n"                                                                                     \
      : QUEST_C32(c, 0), QUEST_C32(c, 32), QUEST_C32(c, 64), QUEST_C32(c, 96)                   \
      : "l"(a), "l"(b), "r"(accumulate))
  if constexpr (std::is_same_v<T, __half>) {
    QUEST_WGMMA_SS("f16");
  } else {
    QUEST_WGMMA_SS("bf16");
  }
#undef QUEST_WGMMA_SS
}

// c [64, 128] += a [64, 16] b [16, 128]; a in registers as of mma16816, b MN-major in shared memory.
template <class T>
__device__ inline void wgmma_registers(float (&c)[64], const uint32_t* a, uint64_t b) {
#define QUEST_WGMMA_RS(type)                                                                                                             \
  asm volatile(                                                                                                                  \
      "{\n"                                                                                                                      \
      ".reg .pred p;\n"                                                                                                          \
      "setp.ne.b32 p, 1, 0;\n"                                                                                                   \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" QUEST_R64 "}, {%64,%65,%66,%67}, %68, p, 1, 1, 1;\n"     \
      "}\n"                                                                                                                      \
      : QUEST_C32(c, 0), QUEST_C32(c, 32)                                                                                        \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
  if constexpr (std::is_same_v<T, __half>) {
    QUEST_WGMMA_RS("f16");
  } else {
    QUEST_WGMMA_RS("bf16");
  }
#undef QUEST_WGMMA_RS
}

// The same for [64, 64].
template <class T>
__device__ inline void wgmma_registers(float (&c)[32], const uint32_t* a, uint64_t b) {
#define QUEST_WGMMA_RS(type)                                                                                                             \
  asm volatile(                                                                                                                  \
      "{\n"                                                                                                                      \
      ".reg .pred p;\n"                                                                                                          \
      "setp.ne.b32 p, 1, 0;\n"                                                                                                   \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" QUEST_R32 "}, {%32,%33,%34,%35}, %36, p, 1, 1, 1;\n"      \
      "}\n"                                                                                                                      \
      : QUEST_C32(c, 0)                                                                                                          \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
  if constexpr (std::is_same_v<T, __half>) {
    QUEST_WGMMA_RS("f16");
  } else {
    QUEST_WGMMA_RS("bf16");
  }
#undef QUEST_WGMMA_RS
}

#undef QUEST_C8
#undef QUEST_C32
#undef QUEST_R32
#undef QUEST_R64
#undef QUEST_R128

#endif  // QUEST_WGMMA_CODE

}  // namespace quest::cuda
