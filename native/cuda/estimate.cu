// Page scores: an upper bound of q . k over each page's keys, from the page's minima and maxima.
//
//   score[list, page] = sum_i max(q_i min_i, q_i max_i)     combined over the query heads that share a list (max or mean)
//
// Metadata [kv head][page][min|max][d] half, reached through the page table; scores fp32 [row, list, page]. Since min <= max
// the larger product is q_i max_i for q_i >= 0 and q_i min_i otherwise, so the sum is q+ . max + q- . min: two fused
// multiply-adds per element. The newest page is not scored unless the method asks (quest-paper): then its bounds are taken
// from its keys up to the row, because later rows of the same pass may already be in the cache.
//
// Four warps per block, each takes tiles of 16 pages; the heads of a group share each loaded page.
// Bytes: 4 d per page and KV head. 32 heads, d 128, 32K tokens: 33.5 MB, 10.9 us at 3.0 TB/s; 128K: 43.4 us.
// Measured on an H100: 14.4 to 17 us (75% of the read bandwidth at best) and 50.5 us.
// Test: quest_cuda_tests --gtest_filter='Estimate*'. Time: quest_cuda_bench attention.
#include <algorithm>

#include "cuda/dispatch.cuh"
#include "cuda/tiles.cuh"

namespace quest::cuda {

namespace {

constexpr int kWarps = 4;
constexpr int kTilePages = 16;
constexpr int kBlocksPerSm = 5;  // that fit with 96 registers per thread

template <class T, int D, int kHeads>
__global__ void QUEST_LAUNCH_BOUNDS(kWarps * 32) estimate_kernel(EstimateParams p) {
  using Rows = Tile<D>;
  dependency_wait();
  dependency_release();
  const DecodeRow& row = p.rows[blockIdx.z];
  const DecodeShape& s = p.shape;
  if (row.reading != Reading::selector || s.layer < row.skip_layers) return;
  const int group = s.n_heads / s.n_kv_heads, kv_head = static_cast<int>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int size = 1 << s.page_shift, full = row.n >> s.page_shift;
  const int pages = (row.n + size - 1) >> s.page_shift;
  const int scored = row.scores_open ? full : pages - 1;  // by metadata; all of them full
  const bool own_lists = s.n_lists == s.n_heads;

  float up[kHeads][8], down[kHeads][8];  // q where positive, q where negative
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    uint4 v{0, 0, 0, 0};
    if (h < group && Rows::active(lane)) {
      v = *reinterpret_cast<const uint4*>(static_cast<const T*>(p.q) + row.row * p.q_stride + (kv_head * group + h) * D +
                                          Rows::column(lane) * 8);
    }
    float q[8];
    unpack8<T>(v, q);
#pragma unroll
    for (int i = 0; i < 8; ++i) up[h][i] = fmaxf(q[i], 0.0f), down[h][i] = fminf(q[i], 0.0f);
  }
  const auto bound = [&](int h, const float(&low)[8], const float(&high)[8]) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = fmaf(up[h][i], high[i], fmaf(down[h][i], low[i], sum));
    return sum;
  };
  float* scores = p.scores + static_cast<int64_t>(blockIdx.z) * s.n_lists * p.score_stride;
  const auto store = [&](const float(&score)[kHeads], int page) {
    if (own_lists) {
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (h < group) scores[(kv_head * group + h) * p.score_stride + page] = score[h];
      }
      return;
    }
    float best = kMinusInfinity, total = 0;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= group) continue;
      const float x = score[h] != score[h] ? kMinusInfinity : score[h];
      best = fmaxf(best, x);
      total += x;
    }
    scores[kv_head * p.score_stride + page] = row.mean ? total / static_cast<float>(group) : best;
  };

  const T* metadata = static_cast<const T*>(p.metadata) + kv_head * p.pages * 2 * D + Rows::column(lane) * 8;
  const int tiles = (scored + kTilePages - 1) / kTilePages;
  for (int tile = static_cast<int>(blockIdx.x) * kWarps + warp; tile < tiles; tile += static_cast<int>(gridDim.x) * kWarps) {
    const int own = tile * kTilePages + lane % kTilePages;
    const int id = row.table[own < scored ? own : scored - 1];
    uint4 low[Rows::kLoads], high[Rows::kLoads];
#pragma unroll
    for (int i = 0; i < Rows::kLoads; ++i) {
      const int64_t page = __shfl_sync(kFull, id, i * Rows::kRows + Rows::row_in_load(lane));
      const T* from = metadata + page * 2 * D;
      low[i] = Rows::active(lane) ? load_streaming(from) : uint4{0, 0, 0, 0};
      high[i] = Rows::active(lane) ? load_streaming(from + D) : uint4{0, 0, 0, 0};
    }
    float part[kHeads][Rows::kLoads];
#pragma unroll
    for (int i = 0; i < Rows::kLoads; ++i) {
      float l[8], u[8];
      unpack8<T>(low[i], l);
      unpack8<T>(high[i], u);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) part[h][i] = bound(h, l, u);
    }
    float score[kHeads];
#pragma unroll
    for (int h = 0; h < kHeads; ++h) score[h] = Rows::sum_rows(part[h], lane);
    const int page = tile * kTilePages + Rows::owned_row(lane);
    if (lane % 2 == 0 && page < scored) store(score, page);
  }

  if (row.scores_open && scored < pages && blockIdx.x == 0 && warp == 0) {
    const int64_t page_half = static_cast<int64_t>(size) * D;
    const T* keys = static_cast<const T*>(p.kv) + (static_cast<int64_t>(row.table[scored]) * s.n_kv_heads + kv_head) * 2 * page_half +
                    Rows::column(lane) * 8;
    float low[8], high[8];
    for (int j = 0; j < row.n - (scored << s.page_shift); ++j) {
      float k[8];
      unpack8<T>(Rows::active(lane) ? *reinterpret_cast<const uint4*>(keys + j * D) : uint4{0, 0, 0, 0}, k);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        low[i] = j == 0 ? k[i] : fminf(low[i], k[i]);
        high[i] = j == 0 ? k[i] : fmaxf(high[i], k[i]);
      }
    }
    float score[kHeads];
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      score[h] = bound(h, low, high);
#pragma unroll
      for (int o = 1; o < Rows::kLanes; o *= 2) score[h] += __shfl_xor_sync(kFull, score[h], o);
    }
    if (lane == 0) store(score, scored);
  }
}

}  // namespace

int estimate_blocks(const DecodeShape& s, int n_rows, int64_t max_pages, int sms) {
  const int64_t wanted = (max_pages + kWarps * kTilePages - 1) / (kWarps * kTilePages);
  return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(wanted, kBlocksPerSm * sms / (s.n_kv_heads * n_rows))));
}

void estimate(const EstimateParams& p, const Launch& how) {
  if (p.n_rows == 0) return;
  const dim3 grid(static_cast<unsigned>(p.blocks), static_cast<unsigned>(p.shape.n_kv_heads), static_cast<unsigned>(p.n_rows));
  const int group = p.shape.n_heads / p.shape.n_kv_heads;
  with_half(p.shape.type, [&](auto t) {
    with_head_dim(p.shape.head_dim, [&](auto d) {
      using T = decltype(t);
      constexpr int D = decltype(d)::value;
      auto* kernel = group == 1   ? estimate_kernel<T, D, 1>
                     : group == 2 ? estimate_kernel<T, D, 2>
                     : group <= 4 ? estimate_kernel<T, D, 4>
                                  : estimate_kernel<T, D, 8>;
      launch(how, "estimate", kernel, grid, kWarps * 32, 0, p);
    });
  });
}

}  // namespace quest::cuda
