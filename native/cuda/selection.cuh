// The k largest of many floats by one block, exactly, without sorting.
//
// select_top, for scores in shared memory: a histogram over their range says in which of kBins the k-th largest lies; the few
// keys of that bin are ranked against each other. kth_largest, for anything: the threshold's bits are found
// two at a time by counting, every count a warp reduction and one barrier; it also takes over where a bin holds too many.
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

constexpr int kBins = 512;        // of a histogram
constexpr int kCandidates = 128;  // keys of one bin that are ranked directly

template <int kWarps>
struct SelectScratch {  // in shared memory, 16-byte aligned
  unsigned bins[kBins / 16 * 20];  // 16 bins in 20 words: a warp reads them all without bank conflicts
  uint32_t candidates[kCandidates];
  uint4 counts[2 * kWarps];
  unsigned found;        // candidates
};

// A barrier before select_top makes this seen.
template <int kThreads>
__device__ inline void select_prepare(SelectScratch<kThreads / 32>& scratch) {
  for (int i = static_cast<int>(threadIdx.x); i < kBins / 16 * 20; i += kThreads) scratch.bins[i] = 0;
  for (int i = static_cast<int>(threadIdx.x); i < kCandidates; i += kThreads) scratch.candidates[i] = 0;
  if (threadIdx.x == 0) scratch.found = 0;
}

// Calls place(i, j) where scores[j] is the i-th of the k chosen in index order: the k largest of n, ties to the lower index,
// NaN as -inf. scores and the prepared scratch in shared memory, visible to all; lowest, highest: the range of the scores'
// keys; 1 <= k <= n. Every thread of the block takes part; a barrier is needed before what `place` stored is read.
// Three barriers on the way, loads eight at a time: all of this is latency.
template <int kThreads, class Place>
__device__ inline void select_top(const float* scores, int n, int k, uint32_t lowest, uint32_t highest, SelectScratch<kThreads / 32>& scratch,
                                  Place&& place) {
  constexpr int kWarps = kThreads / 32, kBatch = 8;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const auto want = static_cast<unsigned>(k);
  const float low = from_ordered_key(lowest), scale = static_cast<float>(kBins) / (from_ordered_key(highest) - low);
  // Never falls as the score rises; NaN, and everything where the range is not finite, goes into bin 0.
  const auto bin_of = [&](float score) {
    const float x = (score - low) * scale;
    return x > 0 ? static_cast<int>(x < kBins - 1 ? x : kBins - 1) : 0;
  };
  const auto bin_word = [](int bin) { return bin + (bin >> 4) * 4; };

  // Each warp keeps to a part of its own, so that places follow from counts per warp.
  const int part = (n + kThreads - 1) / kThreads * 32, begin = warp * part, end = min(n, begin + part);
  float batch[kBatch];
  const auto load = [&](int base) {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int j = base + i * 32 + lane;
      batch[i] = j < end ? scores[j] : 0;
    }
  };
#pragma unroll 1
  for (int base = begin; base < end; base += kBatch * 32) {
    load(base);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (base + i * 32 + lane < end) atomicAdd(&scratch.bins[bin_word(bin_of(batch[i]))], 1u);
    }
  }
  __syncthreads();

  // Every warp finds the bin of the k-th for itself: first the 16 neighbours that a lane has, then which of them.
  unsigned total = 0;
#pragma unroll
  for (int i = 0; i < 16; i += 4) {
    const uint4 four = *reinterpret_cast<const uint4*>(scratch.bins + lane * 20 + i);
    total += four.x + four.y + four.z + four.w;
  }
  const auto sum_up_to = [&](unsigned x) {  // over lanes
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
      const unsigned below = __shfl_up_sync(kFull, x, o);
      if (lane >= o) x += below;
    }
    return x;
  };
  unsigned above = static_cast<unsigned>(n) - sum_up_to(total);
  const int neighbours = 31 - __clz(static_cast<int>(__ballot_sync(kFull, above < want && want <= above + total)));
  above = __shfl_sync(kFull, above, neighbours);
  const unsigned mine = lane < 16 ? scratch.bins[neighbours * 20 + 15 - lane] : 0;  // from the highest bin down
  const unsigned above_mine = above + sum_up_to(mine) - mine;
  const int hit = 31 - __clz(static_cast<int>(__ballot_sync(kFull, above_mine < want && want <= above_mine + mine)));
  const int bin = neighbours * 16 + 15 - hit;
  const unsigned in_bin = __shfl_sync(kFull, mine, hit);
  above = __shfl_sync(kFull, above_mine, hit);

  Threshold t{0, above};
  if (in_bin <= kCandidates) {
#pragma unroll 1
    for (int base = begin; base < end; base += kBatch * 32) {
      load(base);
      unsigned hits = 0;
#pragma unroll
      for (int i = 0; i < kBatch; ++i) hits |= static_cast<unsigned>(base + i * 32 + lane < end && bin_of(batch[i]) == bin) << i;
      if (hits == 0) continue;
      unsigned at = atomicAdd(&scratch.found, static_cast<unsigned>(__popc(hits)));
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (hits >> i & 1u) scratch.candidates[at++] = ordered_key(batch[i]);
      }
    }
    __syncthreads();
    const unsigned rank = want - above;  // of the threshold among the candidates, from 1
#pragma unroll 1
    for (unsigned first = 0; first < in_bin; first += 32) {
      const uint32_t key = first + static_cast<unsigned>(lane) < in_bin ? scratch.candidates[first + static_cast<unsigned>(lane)] : 0;
      unsigned greater = 0, equal = 0;
#pragma unroll 2
      for (unsigned j = 0; j < in_bin; j += 4) {  // zeros behind the last
        const uint4 others = *reinterpret_cast<const uint4*>(scratch.candidates + j);
        greater += (others.x > key) + (others.y > key) + (others.z > key) + (others.w > key);
        equal += (others.x == key) + (others.y == key) + (others.z == key) + (others.w == key);
      }
      const unsigned is = __ballot_sync(kFull, key != 0 && greater < rank && rank <= greater + equal);
      if (is == 0) continue;
      const int source = 31 - __clz(static_cast<int>(is));
      t.key = __shfl_sync(kFull, key, source);
      t.above = above + __shfl_sync(kFull, greater, source);
    }
  } else {
    t = kth_largest(k, scratch.counts, [&](auto&& count) {
      for (int j = begin + lane; j < end; j += 32) count(ordered_key(scores[j]));
    });
    __syncthreads();
  }

  unsigned n_above = 0, n_equal = 0;  // of this lane
#pragma unroll 1
  for (int base = begin; base < end; base += kBatch * 32) {
    load(base);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const uint32_t key = base + i * 32 + lane < end ? ordered_key(batch[i]) : 0;
      n_above += key > t.key;
      n_equal += key == t.key;
    }
  }
  n_above = __reduce_add_sync(kFull, n_above);
  n_equal = __reduce_add_sync(kFull, n_equal);
  if (lane == 0) scratch.counts[warp] = {n_above, n_equal, 0, 0};
  __syncthreads();
  const uint4 of_lane = lane < warp && lane < kWarps ? scratch.counts[lane] : uint4{0, 0, 0, 0};
  unsigned a = __reduce_add_sync(kFull, of_lane.x), e = __reduce_add_sync(kFull, of_lane.y);
  const unsigned ties = want - t.above, before = (1u << lane) - 1;
#pragma unroll 1
  for (int base = begin; base < end; base += kBatch * 32) {
    load(base);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int j = base + i * 32 + lane;
      const uint32_t key = j < end ? ordered_key(batch[i]) : 0;
      const unsigned is_above = __ballot_sync(kFull, key > t.key), is_equal = __ballot_sync(kFull, key == t.key);
      const unsigned equal_before = e + static_cast<unsigned>(__popc(is_equal & before));
      if (key > t.key || (key == t.key && equal_before < ties)) {
        place(static_cast<int>(a + static_cast<unsigned>(__popc(is_above & before)) + min(equal_before, ties)), j);
      }
      a += static_cast<unsigned>(__popc(is_above));
      e += static_cast<unsigned>(__popc(is_equal));
    }
  }
}

}  // namespace quest::cuda
