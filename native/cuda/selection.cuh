// The k-th largest of many floats by one block, exactly, without sorting: the threshold's bits are found two at a time by
// counting. Keys stay in registers while there are few; every count is a warp reduction and one barrier.
#pragma once

#include "cuda/device.cuh"

namespace quest::cuda {

// Sums over the block of three counts. Alternate `buffer` between consecutive calls; scratch [2][warps].
__device__ inline uint3 block_count(uint3 c, uint4* scratch, int buffer) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  c = {__reduce_add_sync(kFull, c.x), __reduce_add_sync(kFull, c.y), __reduce_add_sync(kFull, c.z)};
  if (lane == 0) scratch[buffer * warps + warp] = {c.x, c.y, c.z, 0};
  __syncthreads();
  const uint4 mine = lane < warps ? scratch[buffer * warps + lane] : uint4{0, 0, 0, 0};
  return {__reduce_add_sync(kFull, mine.x), __reduce_add_sync(kFull, mine.y), __reduce_add_sync(kFull, mine.z)};
}

// The smallest and largest key of the block, for every thread. Uses buffer 0 of `scratch`.
__device__ inline void block_range(uint32_t& lowest, uint32_t& highest, uint4* scratch) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  lowest = __reduce_min_sync(kFull, lowest);
  highest = __reduce_max_sync(kFull, highest);
  if (lane == 0) scratch[warp] = {lowest, highest, 0, 0};
  __syncthreads();
  const uint4 mine = lane < warps ? scratch[lane] : uint4{0xffffffffu, 0, 0, 0};
  lowest = __reduce_min_sync(kFull, mine.x);
  highest = __reduce_max_sync(kFull, mine.y);
}

// The chosen keys are those above `key`, and of those equal to it as many as are missing to k.
struct Threshold {
  uint32_t key;
  unsigned above;  // keys greater than `key`, at most k
};

// each_key(f) calls f(key) for this thread's keys, the same ones every time; key 0 is none. 1 <= k <= number of keys of the
// block. The bits that all keys share cost one round: scores of one list mostly share sign and exponent.
template <class EachKey>
__device__ inline Threshold kth_largest(int k, uint4* scratch, EachKey&& each_key) {
  const auto want = static_cast<unsigned>(k);
  uint32_t prefix = 0;  // the k-th largest key, its lower bits still 0
  unsigned above = 0;   // keys above every key with this prefix
  uint32_t lowest = 0xffffffffu, highest = 0;
  each_key([&](uint32_t key) {
    lowest = key != 0 && key < lowest ? key : lowest;
    highest = key > highest ? key : highest;
  });
  block_range(lowest, highest, scratch);
  if (lowest == highest) return {highest, 0};
  const int first_bit = (31 - __clz(static_cast<int>(lowest ^ highest))) & ~1;
  if (first_bit < 30) prefix = highest & ~0u << (first_bit + 2);
  int buffer = 1;
  for (int bit = first_bit; bit >= 0; bit -= 2, buffer ^= 1) {
    const uint32_t one = prefix | 1u << bit, two = prefix | 2u << bit, three = prefix | 3u << bit;
    uint3 c{0, 0, 0};
    each_key([&](uint32_t key) {
      c.x += key >= one;
      c.y += key >= two;
      c.z += key >= three;
    });
    c = block_count(c, scratch, buffer);
    // Exactly k keys from here up: no ties to break, no lower bits to find.
    if (c.x == want) return {one - 1, want};
    if (c.y == want) return {two - 1, want};
    if (c.z == want) return {three - 1, want};
    if (c.z > want) {
      prefix = three;
    } else if (c.y > want) {
      prefix = two;
      above = c.z;
    } else if (c.x > want) {
      prefix = one;
      above = c.y;
    } else {
      above = c.x;
    }
  }
  return {prefix, above};
}

// Exclusive prefix sums over the block of two counts, and their totals. scratch [warps]; ends with a barrier.
struct Scan {
  uint2 before, total;
};
__device__ inline Scan block_scan(unsigned a, unsigned b, uint4* scratch) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  unsigned x = a, y = b;
#pragma unroll
  for (int o = 1; o < 32; o *= 2) {
    const unsigned x2 = __shfl_up_sync(kFull, x, o), y2 = __shfl_up_sync(kFull, y, o);
    if (lane >= o) x += x2, y += y2;
  }
  if (lane == 31) scratch[warp] = {x, y, 0, 0};
  __syncthreads();
  const uint4 mine = lane < warps ? scratch[lane] : uint4{0, 0, 0, 0};
  unsigned wx = mine.x, wy = mine.y;
#pragma unroll
  for (int o = 1; o < 32; o *= 2) {
    const unsigned x2 = __shfl_up_sync(kFull, wx, o), y2 = __shfl_up_sync(kFull, wy, o);
    if (lane >= o) wx += x2, wy += y2;
  }
  Scan s;
  s.total = {__shfl_sync(kFull, wx, 31), __shfl_sync(kFull, wy, 31)};
  const unsigned px = __shfl_sync(kFull, wx - mine.x, warp), py = __shfl_sync(kFull, wy - mine.y, warp);
  s.before = {px + x - a, py + y - b};
  __syncthreads();
  return s;
}

}  // namespace quest::cuda
