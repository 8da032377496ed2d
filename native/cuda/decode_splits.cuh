// How a decode kernel's list is cut into splits, and how their results become one: the end of every decode kernel.
#pragma once

#include "cuda/dispatch.cuh"

namespace quest::cuda {

constexpr int kTileTokens = 16;
constexpr int kMaxSplits = 64;

// The tokens one block reads: [begin, end) in list order.
struct Split {
  int begin, end, active;  // active: blocks that have something to do for this row and head
};

// At least one tile for each of the block's warps.
__device__ inline Split split_of(int tokens, int splits, int index, int warps) {
  const int tiles = (tokens + kTileTokens - 1) / kTileTokens;
  int each = (tiles + splits - 1) / splits;
  if (each < warps) each = warps;
  const int begin = index * each * kTileTokens, end = begin + each * kTileTokens;
  return {begin, end < tokens ? end : tokens, (tiles + each - 1) / each};
}

template <int kWarps>
struct MergeScratch {  // in shared memory
  float scale[kWarps][kMaxSplits];
  bool last;
};

// Merges the block's warps, then, in whichever block of the heads comes last, the splits: always in the same order.
// merged(warp, head): [D] values, their maximum and sum, visible to the whole block. Block `index` of `active`.
template <class T, int D, int kWarps, class Merged>
__device__ inline void finish_split(const DecodeParams& p, const DecodeRow& row, int index, int active, int head0, int heads, Merged&& merged,
                                    MergeScratch<kWarps>& scratch) {
  const DecodeShape& s = p.shape;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t out_row = static_cast<int64_t>(row.row) * s.n_heads * D;
  T* out = static_cast<T*>(p.out) + out_row;
  const int64_t at0 = static_cast<int64_t>(blockIdx.z) * s.n_heads + head0;
  float* values_out = p.partials;                                                                    // [n_rows, n_heads, splits, D]
  float* sums_out = p.partials + static_cast<int64_t>(gridDim.z) * s.n_heads * p.splits * D;  // [n_rows, n_heads, splits, 2]
  for (int h = 0; h < heads; ++h) {
    float top = kMinusInfinity;
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, merged(w, h)[D]);
    float total = 0, scales[kWarps];
    for (int w = 0; w < kWarps; ++w) {
      scales[w] = merged(w, h)[D + 1] > 0 ? exp2_approx(merged(w, h)[D] - top) : 0.0f;
      total += merged(w, h)[D + 1] * scales[w];
    }
    const int64_t at = (at0 + h) * p.splits + index;
    for (int c = static_cast<int>(threadIdx.x); c < D; c += kWarps * 32) {
      float value = 0;
      for (int w = 0; w < kWarps; ++w) value += merged(w, h)[c] * scales[w];
      if (active == 1) {
        out[(head0 + h) * D + c] = from_float<T>(value / total);
      } else {
        values_out[at * D + c] = value;
      }
    }
    if (threadIdx.x == 0) {
      if (active > 1) {
        sums_out[2 * at] = top;
        sums_out[2 * at + 1] = total;
      } else if (p.norms) {
        p.norms[2 * (at0 + h)] = top;
        p.norms[2 * (at0 + h) + 1] = total;
      }
    }
  }
  if (active == 1) return;

  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    const unsigned limit = static_cast<unsigned>(active - 1);
    scratch.last = atomicInc(&p.arrivals[at0], limit) == limit;
  }
  __syncthreads();
  if (!scratch.last) return;
  __threadfence();
  // A warp per head. All loads of a step are independent: one after another, 32 splits would cost 30 us.
  for (int h = warp; h < heads; h += kWarps) {
    const int64_t at = at0 + h;
    const float* sums = sums_out + 2 * at * p.splits;
    float tops[kMaxSplits / 32], totals[kMaxSplits / 32], top = kMinusInfinity, total = 0;
#pragma unroll
    for (int i = 0; i < kMaxSplits / 32; ++i) {
      const int j = i * 32 + lane;
      tops[i] = j < active ? __ldcg(sums + 2 * j) : kMinusInfinity;
      totals[i] = j < active ? __ldcg(sums + 2 * j + 1) : 0.0f;
      top = fmaxf(top, tops[i]);
    }
    top = warp_max(top);
#pragma unroll
    for (int i = 0; i < kMaxSplits / 32; ++i) {
      const float scale = totals[i] > 0 ? exp2_approx(tops[i] - top) : 0.0f;
      scratch.scale[warp][i * 32 + lane] = scale;
      total += totals[i] * scale;
    }
    total = warp_sum(total);
    __syncwarp();
    const auto* from = reinterpret_cast<const float4*>(values_out + at * p.splits * D);
    if (lane * 4 < D) {
      float4 sum4{0, 0, 0, 0};
#pragma unroll 8
      for (int j = 0; j < active; ++j) {
        const float4 v = __ldcg(from + j * (D / 4) + lane);
        const float scale = scratch.scale[warp][j];
        sum4.x = fmaf(scale, v.x, sum4.x);
        sum4.y = fmaf(scale, v.y, sum4.y);
        sum4.z = fmaf(scale, v.z, sum4.z);
        sum4.w = fmaf(scale, v.w, sum4.w);
      }
      const float inverse = 1.0f / total;
      *reinterpret_cast<uint2*>(out + (head0 + h) * D + lane * 4) = {pack2<T>(sum4.x * inverse, sum4.y * inverse), pack2<T>(sum4.z * inverse, sum4.w * inverse)};
    }
    if (lane == 0 && p.norms) {
      p.norms[2 * at] = top;
      p.norms[2 * at + 1] = total;
    }
    __syncwarp();
  }
}

}  // namespace quest::cuda
