// A barrier of all blocks of a kernel whose blocks are all on the GPU at once.
#pragma once

#include "cuda/device.cuh"

namespace quest::cuda {

// counter: one number for any number of kernels after one another, 0 before the first. What any thread stored before is seen by all
// threads after, by reads that pass L1. One round adds 2^31 in all, so that the top bit tells rounds apart and nothing is ever reset.
__device__ inline void grid_barrier(unsigned* counter) {
#ifdef QUEST_EMULATE
  (void)counter;
  emulation::wait_for_neighbours();
#else
  __syncthreads();
  if (threadIdx.x == 0) {
    const unsigned add = blockIdx.x == 0 ? 0x80000000u - (gridDim.x - 1) : 1u;
    unsigned before, now;
    asm volatile("fence.acq_rel.gpu;\n\tatom.add.acq_rel.gpu.global.u32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(add) : "memory");
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
    } while (((before ^ now) & 0x80000000u) == 0);
  }
  __syncthreads();
#endif
}

}  // namespace quest::cuda
