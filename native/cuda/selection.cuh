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
  unsigned found;  // candidates
};

// A barrier before the first score is counted makes this seen.
template <int kThreads>
__device__ inline void select_prepare(SelectScratch<kThreads / 32>& scratch) {
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < kBins / 16 * 20; i += kThreads) scratch.bins[i] = 0;
  for (int i = static_cast<int>(threadIdx.x); i < kCandidates; i += kThreads) scratch.candidates[i] = 0;
  if (threadIdx.x == 0) scratch.found = 0;
}

// Which bin a score falls into, the range of all scores given: never falls as the score rises. Where the range is not finite,
// or a point, it is bin 0 for all.
struct Bins {
  float scale, offset;

  __device__ Bins(float lowest, float highest) : scale(static_cast<float>(kBins) / (highest - lowest)), offset(-lowest * scale) {}
  __device__ float of(float score) const { return fminf(fmaxf(fmaf(score, scale, offset), 0.0f), static_cast<float>(kBins - 1)); }
};

// What select_top needs room for: scores of `n`, then -inf, which come last among equals, up to whole rows of a warp.
inline __host__ __device__ int64_t select_room(int64_t n) { return (n + 127) / 128 * 128; }

// Four scores, for the histogram.
template <int kWarps>
__device__ inline void select_count(SelectScratch<kWarps>& scratch, const Bins& bins, const float4& four) {
  const float score[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int bin = static_cast<int>(bins.of(score[i]));
    atomicAdd(&scratch.bins[bin + (bin >> 4) * 4], 1u);
  }
}

// Calls place(i, j) where scores[j] is the i-th of the k chosen in index order: the k largest, ties to the lower index.
// scores: n in shared memory, n a select_room(), 16-byte aligned, no NaN; all of them counted. 1 <= k <= n.
// Every thread of the block takes part; a barrier is needed before what `place` stored is read.
// Three barriers on the way. All of this is latency. The loops over scores have no branches and are not unrolled: with branches
// a round of a count took 400 cycles instead of 130, and code that runs once is fetched more slowly than it runs.
template <int kThreads, class Place>
__device__ inline void select_top(const float* scores, int n, int k, const Bins& bins, SelectScratch<kThreads / 32>& scratch, Place&& place) {
  constexpr int kWarps = kThreads / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const auto want = static_cast<unsigned>(k);
  __syncthreads();

  // Every warp finds the bin of the k-th for itself: first the 16 neighbours that a lane has, then which of them.
  unsigned total = 0;
#pragma unroll
  for (int i = 0; i < 16; i += 4) {
    const uint4 four = *reinterpret_cast<const uint4*>(scratch.bins + lane * 20 + i);
    total += four.x + four.y + (four.z + four.w);
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
  const unsigned in_bin = __shfl_sync(kFull, mine, hit);
  above = __shfl_sync(kFull, above_mine, hit);

  // A warp's part is in one piece, so that places follow from one count per warp; four scores a lane at a time.
  const int part = (n + kThreads * 4 - 1) / (kThreads * 4) * 128, begin = warp * part + lane * 4, end = min(n, warp * part + part);
  // Of four scores: the bits of those that `is` likes.
  const auto bits_of = [&](int base, auto&& is) {
    const float4 four = *reinterpret_cast<const float4*>(scores + base);
    return static_cast<unsigned>(is(four.x, 0)) | static_cast<unsigned>(is(four.y, 1)) << 1 | static_cast<unsigned>(is(four.z, 2)) << 2 |
           static_cast<unsigned>(is(four.w, 3)) << 3;
  };
  Threshold t{0, above};
  unsigned equal_to_it = 0;
  if (in_bin <= kCandidates) {
    const auto from = static_cast<float>(neighbours * 16 + 15 - hit);
#pragma unroll 1
    for (int base = begin; base < end; base += 128) {
      unsigned hits = bits_of(base, [&](float score, int) { return (bins.of(score) >= from) & (bins.of(score) < from + 1); });
#pragma unroll 1
      for (; hits != 0; hits &= hits - 1) {
        scratch.candidates[atomicAdd(&scratch.found, 1u)] = ordered_key(scores[base + 31 - __clz(static_cast<int>(hits & -hits))]);
      }
    }
    __syncthreads();
    const unsigned rank = want - above;  // of the threshold among the candidates, from 1
#pragma unroll 1
    for (unsigned first = 0; first < in_bin; first += 32) {
      const uint32_t key = first + static_cast<unsigned>(lane) < in_bin ? scratch.candidates[first + static_cast<unsigned>(lane)] : 0;
      unsigned greater = 0, equal = 0;
#pragma unroll 1
      for (unsigned j = 0; j < in_bin; j += 4) {  // zeros behind the last
        const uint4 others = *reinterpret_cast<const uint4*>(scratch.candidates + j);
        greater += (others.x > key) + (others.y > key) + ((others.z > key) + (others.w > key));
        equal += (others.x == key) + (others.y == key) + ((others.z == key) + (others.w == key));
      }
      const unsigned is = __ballot_sync(kFull, key != 0 && greater < rank && rank <= greater + equal);
      if (is == 0) continue;
      const int source = 31 - __clz(static_cast<int>(is));
      t.key = __shfl_sync(kFull, key, source);
      t.above = above + __shfl_sync(kFull, greater, source);
      equal_to_it = __shfl_sync(kFull, equal, source);
    }
  } else {
    t = kth_largest(k, scratch.counts, [&](auto&& count) {
#pragma unroll 1
      for (int j = warp * part + lane; j < end; j += 32) count(ordered_key(scores[j]));
    });
    __syncthreads();
  }

  // kth_largest has stopped early: they are all from the next key up. Below the key of -inf there are no numbers.
  if (t.above == want) t.key = max(t.key + 1, ordered_key(kMinusInfinity));
  const float threshold = from_ordered_key(t.key);
  int ties_end = n;  // of those equal to the threshold, the first: up to this index
  if (t.above != want && t.above + equal_to_it != want) {  // some do not fit, or nobody has counted them
    unsigned ties = want - t.above;
#pragma unroll 1
    for (ties_end = 0; ties > 0 && ties_end < n; ties_end += 32) {
      const unsigned equal = __ballot_sync(kFull, scores[ties_end + lane] == threshold);
      const auto found = static_cast<unsigned>(__popc(equal));
      if (found >= ties) {
        const unsigned last = __ballot_sync(kFull, (equal >> lane & 1u) && static_cast<unsigned>(__popc(equal & ((2u << lane) - 1))) == ties);
        ties_end += 32 - __clz(static_cast<int>(last));
        break;
      }
      ties -= found;
    }
  }
  const auto chosen_of = [&](int base) {
    return bits_of(base, [&](float score, int i) { return (score > threshold) | ((score == threshold) & (base + i < ties_end)); });
  };
  unsigned of_warp = 0;
#pragma unroll 2
  for (int base = begin; base < end; base += 128) of_warp += static_cast<unsigned>(__popc(chosen_of(base)));
  of_warp = __reduce_add_sync(kFull, of_warp);
  auto* counts = reinterpret_cast<unsigned*>(scratch.counts);
  if (lane == 0) counts[warp] = of_warp;
  __syncthreads();
  unsigned before = __reduce_add_sync(kFull, lane < warp && lane < kWarps ? counts[lane] : 0);
  if (of_warp == 0) return;
#pragma unroll 1
  for (int base = begin; base < end; base += 128) {
    const unsigned chosen = chosen_of(base);
    unsigned count = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) count += chosen >> i & 1u;
    // Of up to four: three bits.
    const unsigned one = __ballot_sync(kFull, count & 1u), two = __ballot_sync(kFull, count & 2u), four = __ballot_sync(kFull, count & 4u);
    const unsigned lower = (1u << lane) - 1;
    unsigned at = before + static_cast<unsigned>(__popc(one & lower) + 2 * __popc(two & lower) + 4 * __popc(four & lower));
    before = __shfl_sync(kFull, at + count, 31);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (chosen >> i & 1u) place(static_cast<int>(at), base + i);
      at += chosen >> i & 1u;
    }
  }
}

}  // namespace quest::cuda
