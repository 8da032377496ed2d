// Sixteen rows of head_dim halves, spread over a warp so that every load is 16 bytes wide.
//
// kLanes lanes share a row (8 elements each; head_dim 96 leaves a quarter of them idle), so one load covers kRows rows and
// kLoads loads cover the tile. In load i, lane l holds columns 8 (l % kLanes) of row i * kRows + l / kLanes.
#pragma once

#include "cuda/device.cuh"

namespace quest::cuda {

template <int D>
struct Tile {
  static constexpr int kLanes = D <= 32 ? 4 : D <= 64 ? 8 : 16;
  static constexpr int kRows = 32 / kLanes;
  static constexpr int kLoads = 16 / kRows;  // kLanes / 2
  static constexpr bool kIdleLanes = kLanes * 8 != D;

  __device__ static int column(int lane) { return lane % kLanes; }
  __device__ static int row_in_load(int lane) { return lane / kLanes; }
  __device__ static bool active(int lane) { return !kIdleLanes || column(lane) * 8 < D; }

  // After sum_rows a lane owns this row of the tile; two neighbours own the same one.
  __device__ static int owned_row(int lane) { return column(lane) / 2 * kRows + row_in_load(lane); }
  // The lane that owns row i * kRows + row_in_load(lane).
  __device__ static int owner(int lane, int i) { return row_in_load(lane) * kLanes + 2 * i; }

  // v[i] is the lane's part of the sum of row i * kRows + row_in_load; returns the whole sum of owned_row. Each step halves
  // the sums that a lane carries, so 16 rows cost kLoads shuffles, not kLoads * log2(kLanes).
  __device__ static float sum_rows(float (&v)[kLoads], int lane) {
#pragma unroll
    for (int half = kLoads / 2, offset = kLanes / 2; half >= 1; half /= 2, offset /= 2) {
      const bool upper = (lane & offset) != 0;
#pragma unroll
      for (int j = 0; j < half; ++j) {
        const float give = upper ? v[j] : v[j + half];
        const float keep = upper ? v[j + half] : v[j];
        v[j] = keep + __shfl_xor_sync(kFull, give, offset);
      }
    }
    return v[0] + __shfl_xor_sync(kFull, v[0], 1);
  }
};

}  // namespace quest::cuda
