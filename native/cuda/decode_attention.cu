// Decode attention: one query per row against a list of cached keys, dense or sparse, for every method.
//
//   out[row, h] = softmax(q[row, h] . K^T / sqrt(d)) V   over the row's list of keys
//
// q, out half [rows, heads, d]; K, V in pages [page][kv head][K|V][page_size][d] reached through the branch's page table.
// The list is everything (dense), the chosen pages (selectors), sinks + recent tokens (streaming; the sinks see a query
// rotated for them) or kept tokens (evictors). Dense is the list of all pages without a list: the same tiles in the same
// order, so a budget that covers the cache gives the same bits.
//
// A list is cut into splits (one block each), a split into tiles of 16 keys that four warps take in turn. All query heads of
// a KV head (four at a time) use each loaded key and value. A warp keeps its own running maximum and sum; warps merge in
// shared memory, splits in global memory by whichever block of the row comes last, always in the same order.
//
// Bytes: 2 * d * 2 per key and KV head. 32 heads, d 128: 32K dense 537 MB, 179 us at 3.0 TB/s; 2048 selected keys 33.5 MB,
// 11 us. Measured on an H100 (3.1 TB/s read): 32K dense 183 us, 128K 711 us (97%); 2048 selected 18 to 21 us, of which
// 7 us are a chain of dependent reads (row, list, page table, keys, partial results). 32K 32/8: 53 to 59 us.
// Test: quest_cuda_tests --gtest_filter='DecodeAttention*'. Time: quest_cuda_bench attention.
#include <algorithm>

#include "cuda/decode_group.h"
#include "cuda/decode_splits.cuh"
#include "cuda/tiles.cuh"

namespace quest::cuda {

namespace {

constexpr int kWarps = 4;
constexpr int kMaxPartials = kDecodePartials;

// kHeads query heads share the keys; kTokens: lists may be of single tokens, or pages smaller than a tile.
template <class T, int D, int kHeads, bool kTokens>
__global__ void QUEST_LAUNCH_BOUNDS(kWarps * 32) decode_kernel(DecodeParams p) {
  using Rows = Tile<D>;
  __shared__ float merged[kWarps][kHeads][D + 2];  // values, maximum, sum
  __shared__ MergeScratch<kWarps> scratch;
  dependency_wait();
  dependency_release();

  const DecodeRow& row = p.rows[blockIdx.z];
  const DecodeShape& s = p.shape;
  const int shift = s.page_shift;
  const int group = s.n_heads / s.n_kv_heads;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;

  // This block's heads: one list per query head, or up to kHeads heads of a group.
  const int blocks_per_group = (group + kHeads - 1) / kHeads;
  const bool own_lists = s.n_lists == s.n_heads && group > 1;
  const int by = static_cast<int>(blockIdx.y);
  const int kv_head = own_lists ? by / group : by / blocks_per_group;
  const int head0 = own_lists ? by : kv_head * group + by % blocks_per_group * kHeads;
  const int heads = own_lists ? 1 : min(kHeads, (kv_head + 1) * group - head0);

  const Reading reading = s.layer < row.skip_layers ? Reading::dense : row.reading;
  if (p.selectors_done && reading == Reading::selector) return;
  if (p.pages_done && (reading == Reading::selector || reading == Reading::dense)) return;
  const int n = row.n;
  const int32_t* list = nullptr;
  int tokens = n;
  if (reading == Reading::selector) {
    list = p.lists + (static_cast<int64_t>(blockIdx.z) * s.n_lists + (own_lists ? head0 : kv_head)) * p.list_stride;
    tokens = row.list_pages << shift;
  } else if (reading == Reading::evictor) {
    tokens = row.kept;
    if (!row.kept_all) {
      list = row.kept_tokens +
             (static_cast<int64_t>(s.layer) * row.kept_lists + (row.kept_lists == 1 ? 0 : kv_head)) * row.kept_stride;
    }
  }
  // Streaming: the first block takes the sinks, the others the window.
  const bool window = reading == Reading::window;
  const int index = static_cast<int>(blockIdx.x);
  Split split = window ? split_of(row.window, p.splits - 1, index - 1, kWarps) : split_of(tokens, p.splits, index, kWarps);
  if (window) {
    ++split.active;
    if (index == 0) split.begin = 0, split.end = row.sinks;
  }
  if (index >= split.active) return;
  const bool sink_query = window && index == 0;
  const int first_position = window && !sink_query ? n - row.window : 0;

  float q[kHeads][8];
  const T* queries = sink_query ? static_cast<const T*>(p.q_sinks) + static_cast<int64_t>(row.row) * s.n_heads * D
                                : static_cast<const T*>(p.q) + row.row * p.q_stride;
  const float scale = kLog2e / sqrtf(static_cast<float>(D));
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    uint4 v{0, 0, 0, 0};
    if (h < heads && Rows::active(lane)) v = *reinterpret_cast<const uint4*>(queries + (head0 + h) * D + Rows::column(lane) * 8);
    unpack8<T>(v, q[h]);
#pragma unroll
    for (int i = 0; i < 8; ++i) q[h][i] *= scale;
  }

  const int64_t half_page = static_cast<int64_t>(D) << shift;  // K or V of one head's page
  const T* base = static_cast<const T*>(p.kv) + kv_head * 2 * half_page + Rows::column(lane) * 8;
  const int64_t page_stride = s.n_kv_heads * 2 * half_page;
  const int mask = (1 << shift) - 1;

  // Offset of a token's key from `base`.
  const auto position_of = [&](int t) {
    if (reading == Reading::selector) return (list[t >> shift] << shift) + (t & mask);
    if (list) return t == row.kept - 1 ? n - 1 : list[t];
    return first_position + t;
  };
  const auto offset_of = [&](int position) {
    return row.table[position >> shift] * page_stride + static_cast<int64_t>(position & mask) * D;
  };

  float max_[kHeads], sum[kHeads], acc[kHeads][8];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    max_[h] = kMinusInfinity;
    sum[h] = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) acc[h][i] = 0;
  }

  const int first_tile = split.begin / kTileTokens + warp, end_tile = (split.end + kTileTokens - 1) / kTileTokens;

  // Where a tile's keys are: for whole pages one offset per tile, found 32 tiles ahead by 32 lanes; else one per token.
  int64_t found = 0;  // this lane's
  int found_position = 0;
  const auto find_tiles = [&](int tile) {  // tiles tile, tile + kWarps, ... one per lane
    const int mine = tile + lane * kWarps;
    if (mine < end_tile) {
      found_position = position_of(mine * kTileTokens);
      found = offset_of(found_position);
    }
  };
  const auto find_tokens = [&](int tile) {
    const int t = tile * kTileTokens + lane % kTileTokens;
    found_position = t < split.end ? position_of(t) : n;
    found = offset_of(found_position < n ? found_position : 0);
  };

  uint4 keys[Rows::kLoads], values[Rows::kLoads];
  // Byte addresses of this lane's rows, load by load.
  const auto row_pointer = [&](int64_t tile_offset, int i) {
    const int r = i * Rows::kRows + Rows::row_in_load(lane);
    if constexpr (kTokens) return base + __shfl_sync(kFull, tile_offset, r);
    return base + tile_offset + r * D;
  };
  const auto load = [&](uint4(&to)[Rows::kLoads], int64_t tile_offset, int64_t extra) {
#pragma unroll
    for (int i = 0; i < Rows::kLoads; ++i) {
      const T* from = row_pointer(tile_offset, i) + extra;
      to[i] = Rows::active(lane) ? load_streaming(from) : uint4{0, 0, 0, 0};
    }
  };

  int64_t offset = 0;
  int position = 0;
  const auto locate = [&](int tile) {
    if constexpr (kTokens) {
      find_tokens(tile);
      offset = found;
      position = found_position;
    } else {
      const int ahead = (tile - first_tile) / kWarps % 32;
      if (ahead == 0) find_tiles(tile);
      offset = __shfl_sync(kFull, found, ahead);
      position = __shfl_sync(kFull, found_position, ahead);
    }
  };

  if (first_tile < end_tile) {
    locate(first_tile);
    load(keys, offset, 0);
  }
  for (int tile = first_tile; tile < end_tile; tile += kWarps) {
    load(values, offset, half_page);
    // The row of the tile that this lane decides about.
    const int mine = Rows::owned_row(lane);
    bool valid;
    int rows_valid = kTileTokens;
    if constexpr (kTokens) {
      valid = __shfl_sync(kFull, position, mine) < n;
    } else {
      rows_valid = min(kTileTokens, n - position);
      valid = mine < rows_valid;
    }

    float score[kHeads];
    float part[kHeads][Rows::kLoads];
#pragma unroll
    for (int i = 0; i < Rows::kLoads; ++i) {
      float k[8];
      unpack8<T>(keys[i], k);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        float dot = 0;
#pragma unroll
        for (int j = 0; j < 8; ++j) dot = fmaf(q[h][j], k[j], dot);
        part[h][i] = dot;
      }
    }
    // The keys' registers are free: the next tile's keys travel while this tile is weighed and summed.
    if (tile + kWarps < end_tile) {
      locate(tile + kWarps);
      load(keys, offset, 0);
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      score[h] = Rows::sum_rows(part[h], lane);
      if (!valid) score[h] = kMinusInfinity;
    }
    if constexpr (kTokens) {
      if (reading == Reading::evictor && p.logits && lane % 2 == 0 && valid) {
        for (int h = 0; h < heads; ++h) {
          p.logits[(static_cast<int64_t>(blockIdx.z) * s.n_heads + head0 + h) * p.logit_stride + tile * kTileTokens + mine] = score[h];
        }
      }
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const float top = fmaxf(max_[h], warp_max(score[h]));
      // A tile may hold no valid key: then nothing changes, and -inf - -inf must not be taken.
      const float old_scale = max_[h] == top ? 1.0f : exp2_approx(max_[h] - top);
      const float weight = score[h] == kMinusInfinity ? 0.0f : exp2_approx(score[h] - top);
      max_[h] = top;
      sum[h] = sum[h] * old_scale + weight;
      score[h] = weight;
#pragma unroll
      for (int j = 0; j < 8; ++j) acc[h][j] *= old_scale;
    }
#pragma unroll
    for (int i = 0; i < Rows::kLoads; ++i) {
      float v[8];
      unpack8<T>(values[i], v);
      if constexpr (!kTokens) {
        // Rows beyond the cache's end hold anything, NaN included, and 0 * NaN is not 0.
        if (i * Rows::kRows + Rows::row_in_load(lane) >= rows_valid) {
#pragma unroll
          for (int j = 0; j < 8; ++j) v[j] = 0;
        }
      }
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        const float weight = __shfl_sync(kFull, score[h], Rows::owner(lane, i));
#pragma unroll
        for (int j = 0; j < 8; ++j) acc[h][j] = fmaf(weight, v[j], acc[h][j]);
      }
    }
  }

  // Rows of the warp, then warps, then splits.
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    sum[h] = 0.5f * warp_sum(sum[h]);  // two lanes own each row
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int o = Rows::kLanes; o < 32; o *= 2) acc[h][j] += __shfl_xor_sync(kFull, acc[h][j], o);
    }
    if (Rows::row_in_load(lane) == 0 && Rows::active(lane)) {
#pragma unroll
      for (int j = 0; j < 8; ++j) merged[warp][h][Rows::column(lane) * 8 + j] = acc[h][j];
    }
    if (lane == 0) {
      merged[warp][h][D] = max_[h];
      merged[warp][h][D + 1] = sum[h];
    }
  }
  __syncthreads();
  finish_split<T, D, kWarps>(p, row, index, split.active, head0, heads, [&](int w, int h) { return merged[w][h]; }, scratch);
}

template <class T, int D, int kHeads>
void launch_decode(const DecodeParams& p, unsigned head_blocks, const Launch& how) {
  const dim3 grid(static_cast<unsigned>(p.splits), head_blocks, static_cast<unsigned>(p.n_rows));
  const bool tokens = p.tokens || (1 << p.shape.page_shift) < kTileTokens;
  launch(how, "decode_attention", tokens ? decode_kernel<T, D, kHeads, true> : decode_kernel<T, D, kHeads, false>, grid,
         kWarps * 32, 0, p);
}

}  // namespace

int decode_splits(const DecodeShape& s, int n_rows, int sms) {
  const int most = std::min(kMaxSplits, kMaxPartials / n_rows);
  if (decode_group_applies(s)) return std::max(2, std::min(decode_group_splits(s, n_rows, sms), most));
  const int group = s.n_heads / s.n_kv_heads;
  const int blocks_per_row = s.n_lists == s.n_heads ? s.n_heads : s.n_kv_heads * ((group + 3) / 4);
  // Blocks that an SM holds at head_dim 128: 128, 168 and 244 registers per thread for 1, 2 and 4 heads.
  const int per_sm = s.n_lists == s.n_heads || group == 1 ? 4 : group == 2 ? 3 : 2;
  return std::max(2, std::min(per_sm * sms / (blocks_per_row * n_rows), most));
}

void decode_attention(const DecodeParams& all, const Launch& how) {
  if (all.n_rows == 0) return;
  DecodeParams p = all;
  if (decode_group_applies(p.shape)) {
    decode_group(p, how);
    if (!p.tokens) return;
    p.pages_done = true;
  }
  const auto group = static_cast<unsigned>(p.shape.n_heads / p.shape.n_kv_heads);
  const auto kv_heads = static_cast<unsigned>(p.shape.n_kv_heads);
  const bool own_lists = p.shape.n_lists == p.shape.n_heads && group > 1;
  with_half(p.shape.type, [&](auto t) {
    with_head_dim(p.shape.head_dim, [&](auto d) {
      using T = decltype(t);
      constexpr int D = decltype(d)::value;
      if (own_lists) return launch_decode<T, D, 1>(p, kv_heads * group, how);
      if (group == 1) return launch_decode<T, D, 1>(p, kv_heads, how);
      if (group == 2) return launch_decode<T, D, 2>(p, kv_heads, how);
      launch_decode<T, D, 4>(p, kv_heads * ((group + 3) / 4), how);
    });
  });
}

}  // namespace quest::cuda
