// A board in global memory on which blocks that run side by side post numbers for each other, without barriers or fences: a
// number is its own flag. Every word is kBlank between kernels; who has read what nobody else needs any more wipes it.
#pragma once

#include "cuda/device.cuh"

namespace quest::cuda {

constexpr uint32_t kBlank = 0xffffffffu;  // a NaN that no arithmetic gives

__device__ inline void board_post(uint32_t* word, float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  if (bits == kBlank) bits = 0x7fffffff;
#ifdef QUEST_EMULATE
  *word = bits;
#else
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(word), "r"(bits) : "memory");
#endif
}

__device__ inline uint32_t board_word(const uint32_t* word) {
#ifdef QUEST_EMULATE
  return *word;
#else
  uint32_t v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(word) : "memory");
  return v;
#endif
}

// Two words, each whole, not both of one moment.
__device__ inline uint2 board_pair(const uint32_t* words) {
#ifdef QUEST_EMULATE
  return *reinterpret_cast<const uint2*>(words);
#else
  uint2 v;
  asm volatile("ld.relaxed.gpu.global.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(words) : "memory");
  return v;
#endif
}

// Calls read() until it says true for every lane of the warp.
template <class Read>
__device__ inline void board_await(Read&& read) {
  while (__ballot_sync(kFull, read()) != kFull) {
#ifdef QUEST_EMULATE
    emulation::pause();
#endif
  }
}

}  // namespace quest::cuda
