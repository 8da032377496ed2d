// Decode attention of whole pages for grouped heads, on tensor cores: up to eight query heads share each loaded key and value.
//
//   out[row, h] = softmax(q[row, h] . K^T / sqrt(d)) V   over all pages (dense) or the row's list of pages
//
// The arithmetic of a group of four on plain cores takes as long as its reads, so it is done on tensor cores (group_tile.cuh).
// Layouts and splits are decode_attention.cu's; weights are rounded to half before they meet the values.
//
// Four warps per block take the tiles of its split in turn. Each has a ring of three tiles of keys and values in shared
// memory, filled 16 bytes at a time: two tiles are on their way while one is used, 64 KB per block, two blocks per
// multiprocessor (one on sm_80 and sm_89).
//
// Bytes: 4 d per key and KV head. 8 KV heads, d 128: 32K 134 MB, 43.4 us at 3.09 TB/s; 128K 174 us.
// Measured on an H100: 51.8 and 185 us.
// Test: quest_cuda_tests --gtest_filter='DecodeAttention*'. Time: quest_cuda_bench attention.
#include "cuda/decode_group.h"
#include "cuda/decode_splits.cuh"
#include "cuda/group_tile.cuh"

namespace quest::cuda {

namespace {

constexpr int kWarps = 4;
constexpr int kStages = 3;
constexpr int kHeads = kGroupHeads;
constexpr int kBlocksPerSm = 2;

template <class T, int D>
__global__ void QUEST_LAUNCH_BOUNDS(kWarps * 32, kBlocksPerSm) decode_group_kernel(DecodeParams p) {
  constexpr int kChunks = D / 8;                    // of 16 bytes in a row
  constexpr int kTile = kTileTokens * D;            // elements of K, or of V
  constexpr int kCopies = kTileTokens * kChunks / 32;
  __shared__ MergeScratch<kWarps> scratch;
  dependency_wait();
  dependency_release();

  const DecodeRow& row = p.rows[blockIdx.z];
  const DecodeShape& s = p.shape;
  const Reading reading = s.layer < row.skip_layers ? Reading::dense : row.reading;
  if (reading == Reading::window || reading == Reading::evictor || (p.selectors_done && reading == Reading::selector)) return;
  const int shift = s.page_shift, group = s.n_heads / s.n_kv_heads, n = row.n;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int kv_head = static_cast<int>(blockIdx.y), head0 = kv_head * group;
  const bool selects = reading == Reading::selector;
  const int32_t* list = selects ? p.lists + (static_cast<int64_t>(blockIdx.z) * s.n_lists + kv_head) * p.list_stride : nullptr;
  const Split split = split_of(selects ? row.list_pages << shift : n, p.splits, static_cast<int>(blockIdx.x), kWarps);
  if (static_cast<int>(blockIdx.x) >= split.active) return;
  T* ring = reinterpret_cast<T*>(dynamic_shared()) + warp * kStages * 2 * kTile;

  // Tiles of this warp: first_tile, first_tile + kWarps, ... Where 32 of them begin is found at a time, one per lane.
  const int first_tile = split.begin / kTileTokens + warp, end_tile = (split.end + kTileTokens - 1) / kTileTokens;
  const int steps = first_tile < end_tile ? (end_tile - first_tile + kWarps - 1) / kWarps : 0;
  const int64_t half_page = static_cast<int64_t>(D) << shift;
  const T* kv = static_cast<const T*>(p.kv) + kv_head * 2 * half_page;
  const auto find = [&](int step, int64_t& offset, int& position) {
    const int t = (first_tile + step * kWarps) * kTileTokens;
    if (step >= steps) return;
    position = selects ? (list[t >> shift] << shift) + (t & ((1 << shift) - 1)) : t;
    offset = row.table[position >> shift] * (s.n_kv_heads * 2 * half_page) + static_cast<int64_t>(position & ((1 << shift) - 1)) * D;
  };
  int64_t offsets = 0, next_offsets = 0;
  int positions = 0, next_positions = 0;
  find(lane, next_offsets, next_positions);
  // Asks for a tile and returns how many of its keys there are.
  const auto issue = [&](int step) {
    int rows = 0;
    if (step < steps) {
      if (step % 32 == 0) {
        offsets = next_offsets;
        positions = next_positions;
        find(step + 32 + lane, next_offsets, next_positions);
      }
      const T* from = kv + __shfl_sync(kFull, offsets, step % 32);
      rows = min(kTileTokens, n - __shfl_sync(kFull, positions, step % 32));
      T* to = ring + step % kStages * 2 * kTile;
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        const int r = (i * 32 + lane) / kChunks, c = lane % kChunks;
        copy_async16(to + row_chunk<D>(r, c), from + r * D + c * 8, r < rows);
      }
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        const int r = (i * 32 + lane) / kChunks, c = lane % kChunks;
        copy_async16(to + kTile + column_chunk<D>(r, c), from + half_page + r * D + c * 8, r < rows);
      }
    }
    copy_async_commit();
    return rows;
  };
  int rows_next = issue(0), rows_after = issue(1);
  static_assert(kStages == 3);

  GroupQueries<D> queries;
  queries.load(static_cast<const T*>(p.q) + row.row * p.q_stride + static_cast<int64_t>(head0) * D, group, lane);
  GroupSums<T, D> sums;
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<kStages - 2>();
    __syncwarp();  // the tile is there for all lanes, and none still reads the one before
    const int rows = rows_next;
    rows_next = rows_after;
    rows_after = issue(step + 2);
    const T* keys = ring + step % kStages * 2 * kTile;
    float score[4];
    uint32_t weights[2];
    sums.logits(score, keys, queries, rows, lane);
    sums.weigh(score, weights);
    sums.add(keys + kTile, weights, lane);
  }

  // The rings are idle: the warps' results lie there until they are merged.
  copy_async_wait<0>();
  __syncthreads();
  constexpr int kPart = D + 2;
  auto* parts = reinterpret_cast<float*>(dynamic_shared());
  const auto merged = [&](int w, int h) { return parts + (w * kHeads + h) * kPart; };
  static_assert(kHeads * kPart * sizeof(float) <= kStages * 2 * kTile * sizeof(T));
  sums.store([&](int h) { return merged(warp, h); }, group, lane);
  __syncthreads();
  finish_split<T, D, kWarps>(p, row, static_cast<int>(blockIdx.x), split.active, head0, group, merged, scratch);
}

}  // namespace

bool decode_group_applies(const DecodeShape& s) {
  const int group = s.n_heads / s.n_kv_heads;
  return group > 1 && group <= kHeads && s.n_lists == s.n_kv_heads && (1 << s.page_shift) >= kTileTokens && (s.head_dim == 64 || s.head_dim == 128);
}

int decode_group_splits(const DecodeShape& s, int n_rows, int sms) {
  const int splits = kBlocksPerSm * sms / (s.n_kv_heads * n_rows);
  // Measured on an H100: 33 splits of 32K keys take up to a tenth longer than 32.
  return splits > 8 ? splits & ~7 : splits;
}

void decode_group(const DecodeParams& p, const Launch& how) {
  const dim3 grid(static_cast<unsigned>(p.splits), static_cast<unsigned>(p.shape.n_kv_heads), static_cast<unsigned>(p.n_rows));
  with_half(p.shape.type, [&](auto t) {
    using T = decltype(t);
    const auto with = [&](auto d) {
      constexpr int D = decltype(d)::value;
      const size_t bytes = sizeof(T) * kWarps * kStages * 2 * kTileTokens * D;
      launch(how, "decode_group", decode_group_kernel<T, D>, grid, kWarps * 32, bytes, p);
    };
    if (p.shape.head_dim == 64) return with(std::integral_constant<int, 64>{});
    with(std::integral_constant<int, 128>{});
  });
}

}  // namespace quest::cuda
