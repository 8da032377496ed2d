// A warp's ring of slots in shared memory, filled by the copy engine while the warp works: sm_90 and newer.
#pragma once

#include "cuda/mbarrier.cuh"

namespace quest::cuda {

// Slots are filled and taken in turn, by one warp. A filled slot is a contiguous piece of global memory, a multiple of 16 bytes.
template <int kSlots, int kSlotBytes>
class WarpRing {
 public:
  static constexpr int kBytes = kSlots * kSlotBytes;         // of `data`, aligned to 16
  static constexpr int kBarrierBytes = kSlots * 8;           // of `barriers`, aligned to 8

  __device__ WarpRing(unsigned char* data, unsigned char* barriers, int lane) : data_(data), barriers_(barriers), lane_(lane) {
#if !defined(QUEST_EMULATE) && __CUDA_ARCH__ >= 900
    if (lane == 0) {
      for (int i = 0; i < kSlots; ++i) barrier_init(barrier(i), 1);
      barrier_init_fence();
    }
    __syncwarp();
#endif
  }
  // Asks for the slot's next contents, when every lane has read what it held.
  __device__ void fill(int slot, const unsigned char* from, unsigned bytes) {
    if (lane_ != 0) return;
#ifdef QUEST_EMULATE
    __builtin_memcpy(data_ + slot * kSlotBytes, from, bytes);
#elif __CUDA_ARCH__ >= 900
    barrier_expect(barrier(slot), bytes);
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(data_ + slot * kSlotBytes)),
                 "l"(from), "r"(bytes), "r"(shared_address(barrier(slot)))
                 : "memory");
#endif
  }
  // Waits for the next slot in turn and says which it is.
  __device__ int take() {
    const int slot = slot_;
#ifdef QUEST_EMULATE
    __syncwarp();
#elif __CUDA_ARCH__ >= 900
    barrier_wait(barrier(slot), parity_);
#endif
    if (++slot_ == kSlots) slot_ = 0, parity_ ^= 1;
    return slot;
  }
  __device__ const unsigned char* at(int slot) const { return data_ + slot * kSlotBytes; }

 private:
  __device__ uint64_t* barrier(int slot) const { return reinterpret_cast<uint64_t*>(barriers_) + slot; }
  unsigned char *data_, *barriers_;
  int lane_, slot_ = 0;
  unsigned parity_ = 0;
};

}  // namespace quest::cuda
