// Clusters of blocks that see each other's shared memory: sm_90 and newer.
#pragma once

#include "cuda/device.cuh"

namespace quest::cuda {

#ifdef QUEST_EMULATE
inline int cluster_rank() { return emulation::cluster_rank(); }
inline void cluster_arrive() { emulation::cluster_arrive(); }
inline void cluster_wait() { emulation::cluster_wait(); }
template <class V>
void store_remote(V* mine, int rank, V value) {
  *static_cast<V*>(emulation::remote(mine, rank)) = value;
}
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

__device__ inline int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
// Every thread of the cluster arrives, then waits; what was stored before arriving is seen after waiting. Threads that have
// exited count as arrived.
__device__ inline void cluster_arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }
// Stores a 32-bit value where `mine` points, in the shared memory of another block of the cluster.
template <class V>
__device__ inline void store_remote(V* mine, int rank, V value) {
  static_assert(sizeof(V) == 4);
  uint32_t to, bits;
  __builtin_memcpy(&bits, &value, 4);
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(shared_address(mine)), "r"(rank));
  asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(to), "r"(bits) : "memory");
}
#endif

}  // namespace quest::cuda
