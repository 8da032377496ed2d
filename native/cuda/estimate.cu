// Page scores: an upper bound of q . k over each page's keys, from the page's minima and maxima.
//
//   score[list, page] = sum_i max(q_i min_i, q_i max_i)     combined over the query heads that share a list (max or mean)
//
// Metadata [kv head][page][min|max][d] half, reached through the page table; scores fp32 [row, list, page]. The arithmetic is
// in group_tile.cuh, on tensor cores. The newest page is not scored unless the method asks (quest-paper): then its bounds are
// taken from its keys up to the row, because later rows of the same pass may already be in the cache.
//
// Four warps per block, each takes tiles of 16 pages; the heads of a group share each loaded page. Where the next tile's pages
// are is looked up a tile ahead.
// Bytes: 4 d per page and KV head. 32 heads, d 128, 32K tokens: 33.5 MB, 10.9 us at 3.0 TB/s; 128K: 43.4 us.
// Measured on an H100: 15.2 and 53.2 us; 32/8 heads 5.5 and 15.5 us.
// Test: quest_cuda_tests --gtest_filter='Estimate*'. Time: quest_cuda_bench attention.
#include <algorithm>

#include "cuda/group_tile.cuh"

namespace quest::cuda {

namespace {

constexpr int kWarps = 4;
constexpr int kTilePages = 16;
constexpr int kBlocksPerSm = 4;

template <class T, int D>
__global__ void QUEST_LAUNCH_BOUNDS(kWarps * 32, kBlocksPerSm) estimate_kernel(EstimateParams p) {
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

  float* scores = p.scores + static_cast<int64_t>(blockIdx.z) * s.n_lists * p.score_stride;
  // All lanes call it; the four of a page have its heads' scores between them.
  const auto store = [&](float2 score, int page, bool there) {
    const int head = 2 * (lane % 4);
    if (own_lists) {
      if (there && head < group) scores[(kv_head * group + head) * p.score_stride + page] = score.x;
      if (there && head + 1 < group) scores[(kv_head * group + head + 1) * p.score_stride + page] = score.y;
      return;
    }
    const float shared = group_score(score, group, row.mean != 0, lane);
    if (there && lane % 4 == 0) scores[kv_head * p.score_stride + page] = shared;
  };

  const T* metadata = static_cast<const T*>(p.metadata) + kv_head * p.pages * 2 * D + lane % 4 * 8;
  const int tiles = (scored + kTilePages - 1) / kTilePages, step = static_cast<int>(gridDim.x) * kWarps;
  const auto id_of = [&](int tile, int half) {
    const int page = tile * kTilePages + half * 8 + lane / 4;
    return page < scored ? row.table[page] : row.table[0];
  };
  int tile = static_cast<int>(blockIdx.x) * kWarps + warp;
  int ids[2] = {0, 0};
  if (tile < tiles) ids[0] = id_of(tile, 0), ids[1] = id_of(tile, 1);
  GroupQueries<D> queries;
  queries.load(static_cast<const T*>(p.q) + row.row * p.q_stride + kv_head * group * D, group, lane);
  for (; tile < tiles; tile += step) {
    uint4 low[2][D / 32], high[2][D / 32];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const T* from = metadata + static_cast<int64_t>(ids[half]) * 2 * D;
#pragma unroll
      for (int j = 0; j < D / 32; ++j) {
        low[half][j] = load_streaming(from + j * 32);
        high[half][j] = load_streaming(from + D + j * 32);
      }
    }
    if (tile + step < tiles) ids[0] = id_of(tile + step, 0), ids[1] = id_of(tile + step, 1);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int page = tile * kTilePages + half * 8 + lane / 4;
      store(page_scores<T, D>(queries, low[half], high[half]), page, page < scored);
    }
  }

  if (row.scores_open && scored < pages && blockIdx.x == 0 && warp == 0) {
    const int64_t page_half = static_cast<int64_t>(size) * D;
    const T* keys = static_cast<const T*>(p.kv) + (static_cast<int64_t>(row.table[scored]) * s.n_kv_heads + kv_head) * 2 * page_half;
    store(open_page_scores<T, D>(queries, keys, row.n - (scored << s.page_shift), lane), scored, lane / 4 == 0);
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
  with_half(p.shape.type, [&](auto t) {
    with_head_dim(p.shape.head_dim, [&](auto d) {
      launch(how, "estimate", estimate_kernel<decltype(t), decltype(d)::value>, grid, kWarps * 32, 0, p);
    });
  });
}

}  // namespace quest::cuda
