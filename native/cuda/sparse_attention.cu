// The whole Quest step of one layer, page scores + top-k + attention over the chosen pages: one launcher for the chain of
// estimate, top_k and decode_attention, and for the kernel here that does all three on Hopper.
//
// A few blocks serve one KV head of one row. Each streams its share of the pages' bounds through shared memory and posts the
// scores on a board in global memory (board.cuh); each reads all of the head's scores there and selects for itself
// (selection.cuh; redundant, but no list has to travel), attends to its share of the chosen pages, and posts its partial result
// for the block that merges that query head. The pages chosen are those of the unfused chain: scores are the same bits
// (group_tile.cuh). No clusters: a cluster starts only where there is room for all of its blocks at once in one part of the
// GPU, a block of this kernel wherever a block of the product before it has made room.
//
// Data come in the background (cp.async) into rings of two to four slots, one ring per warp: eight pages' bounds, sixteen
// keys or sixteen values in a slot, 64 to 128 KB per block at head_dim 128. A warp waits for its slot, uses it, asks for what
// comes a ring later; warps meet only at the selection and at the end. Bounds that were final before this step (`settled`)
// are asked for before the previous kernel has ended.
//
// The newest token of a single step: its rotation and its way into the cache (rope_append) are part of this kernel where the
// caller asks for it, so that it follows the projection directly and its rings fill while that still runs. Every warp rotates
// the queries it has loaded in registers; cosines and sines depend on nothing and are in shared memory by then. A head's last
// block stores key and value and updates the open page's bounds: it is the one that attends to that page, which comes last in
// the list, and no block reads those bounds. Not where an open page is scored: one that has just been filled is
// scored by its bounds in the same step.
//
// Blocks wait for each other, in groups that are neighbours in the grid: blocks start in the order of their indices, and those
// of a head need nothing but each other and what came before. Where each can have a multiprocessor, no two meet on one.
//
// Bytes: 4 d per page and KV head, then 4 d per chosen token and KV head. 32 heads, d 128, 32K, 2048 chosen: 67 MB, 21.7 us at
// 3.09 TB/s; 128K: 168 MB, 54 us; 32/8 heads: 5.4 and 13.6 us.
// Measured on an H100: 30.7 and 72.6 us; 32/8 heads 14.0 and 26.9 us. (The chain of kernels: 40.5, 80.1, 22.1, 38.0. With
// clusters and their shared memory in place of the board: 32.5, 71.8, 15.8, 30.1, but a step of a 7B model 0.26 ms slower.)
// Where a block's time goes (32K, 32 heads): scores 7.1 us, scores of the others 2.1, selection 2.0, attention 11.9, merging 2.3;
// the slowest block ends 3.3 us after the average one. Two teams of eight warps in a block, a head each, one selecting while the
// other's bounds stream, took 32.9 to 36 us: the board's words queue behind the stream (a round trip of 3400 cycles, not 1700), a
// selection beside it is a third slower, and what was to be hidden is not.
// Test: quest_cuda_tests --gtest_filter='Sparse*'. Time: quest_cuda_bench attention.
#include <algorithm>

#include "cuda/board.cuh"
#include "cuda/group_tile.cuh"
#include "cuda/rotary.cuh"
#include "cuda/selection.cuh"

namespace quest::cuda {

namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kTilePages = 8;    // bounds in a slot
constexpr int kTileTokens = 16;  // keys, or values, in a slot
constexpr size_t kHalfShared = 228 * 1024 / 2 - 1024;  // two blocks per multiprocessor on sm_90
constexpr int kMaxBlocks = 32;  // that share a head
constexpr int kGathered = 8;  // parts that a thread asks for at once

// What lies where in a block's dynamic shared memory, in bytes: first the rings, and in the same place, between bounds
// and keys, the scores.
struct Layout {
  size_t selection, lists, turns, bytes;
};
inline __host__ __device__ Layout layout_of(int d, const SparsePlan& plan, int64_t pages, int64_t list_pages) {
  const auto aligned = [](size_t n) { return (n + 127) / 128 * 128; };
  const size_t rings = static_cast<size_t>(kWarps * plan.slots * kTileTokens * d) * 2, scores = static_cast<size_t>(select_room(pages)) * sizeof(float);
  Layout l{};
  l.selection = aligned(rings > scores ? rings : scores);
  l.lists = l.selection + aligned(sizeof(SelectScratch<kWarps>));
  l.turns = l.lists + aligned(static_cast<size_t>(list_pages) * sizeof(int32_t));
  l.bytes = aligned(l.turns + static_cast<size_t>(d / 2) * sizeof(float2));
  return l;
}

// The board: of every KV head of every row, a word per page for its score, the lowest and the highest of every warp's, then the
// parts [blocks, heads, d + 2] of its output.
struct BoardLayout {
  int64_t ranges, parts, head;  // where a head's begin; words per head
};
inline __host__ __device__ BoardLayout board_layout(int d, int blocks, int heads, int64_t pages) {
  const int64_t ranges = select_room(pages), parts = ranges + int64_t{2} * kWarps * blocks;
  return {ranges, parts, parts + (static_cast<int64_t>(blocks) * heads * (d + 2) + 3) / 4 * 4};
}

#if defined(QUEST_EMULATE) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)
// Physical pages of a warp's tiles, `per` of them per load of 32, one load ahead.
template <class IdOf>
struct PageIds {
  IdOf id_of;  // (tile of the warp, entry in the tile) -> physical page
  int shift;   // log2 of the entries of a tile
  int now = 0, next = 0;

  __device__ PageIds(IdOf of, int entries_shift, int lane) : id_of(of), shift(entries_shift) { next = load(0, lane); }
  __device__ int load(int block, int lane) { return id_of((block << (5 - shift)) + (lane >> shift), lane & ((1 << shift) - 1)); }
  // Tiles are begun in order.
  __device__ void begin(int i, int lane) {
    if ((i & ((32 >> shift) - 1)) != 0) return;
    now = next;
    next = load((i >> (5 - shift)) + 1, lane);
  }
  // The page of an entry of tile i, the last one begun. Every lane takes part.
  __device__ int of(int i, int entry) const { return __shfl_sync(kFull, now, ((i & ((32 >> shift) - 1)) << shift) + entry); }
};

// Bias and rotation of fresh queries. The two columns of a pair lie in the same lane. turns [D / 2]; head: the group's first.
template <class T, int D>
__device__ inline void rotate_queries(GroupQueries<D>& queries, const AppendParams& p, const float2* turns, int head, int group, int lane) {
  static_assert(D % 64 == 0);
  if (lane / 4 >= group) return;
#pragma unroll
  for (int j = 0; j < D / 64; ++j) {
    const int column = (4 * j + lane % 4) * 8;
    float a[8], b[8];
    unpack8<T>(queries.chunk[j], a);
    unpack8<T>(queries.chunk[j + D / 64], b);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 turned = rotate(a[i] + bias_at(p, head + lane / 4, column + i), b[i] + bias_at(p, head + lane / 4, column + i + D / 2), turns[column + i]);
      a[i] = turned.x;
      b[i] = turned.y;
    }
    queries.chunk[j] = pack8<T>(a);
    queries.chunk[j + D / 64] = pack8<T>(b);
  }
}

template <class T, int D, int kSlots>
__device__ inline void sparse_body(const SparseParams& p) {
  constexpr int kSlotElements = kTileTokens * D;  // = kTilePages * 2 * D
  constexpr int kChunks = D / 8;                  // of 16 bytes in a row
  constexpr int kCopies = kTileTokens * kChunks / 32;
  const DecodeParams& a = p.attention;
  const DecodeShape& s = a.shape;
  const int shift = s.page_shift, group = s.n_heads / s.n_kv_heads;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int kv_head = static_cast<int>(blockIdx.y), blocks = static_cast<int>(gridDim.x), rank = static_cast<int>(blockIdx.x);
  const Layout layout = layout_of(D, p.plan, p.max_pages, a.list_stride);
  unsigned char* shared = dynamic_shared();
  T* ring = reinterpret_cast<T*>(shared) + warp * kSlots * kSlotElements;
  auto& selection = *reinterpret_cast<SelectScratch<kWarps>*>(shared + layout.selection);
  auto* scores = reinterpret_cast<float*>(shared);
  auto* list = reinterpret_cast<int32_t*>(shared + layout.lists);
  const BoardLayout posts = board_layout(D, blocks, group, p.max_pages);
  uint32_t* board = p.board + (static_cast<int64_t>(blockIdx.z) * s.n_kv_heads + kv_head) * posts.head;

  // The row and its page table are older than the previous kernel.
  const DecodeRow& row = a.rows[blockIdx.z];
  if (row.reading != Reading::selector || s.layer < row.skip_layers) {
    dependency_wait();
    dependency_release();
    return;
  }
  const int n = row.n, pages = (n + (1 << shift) - 1) >> shift;
  const bool scores_open = row.scores_open != 0;
  const int scored = scores_open ? n >> shift : pages - 1;  // by their bounds; all of them full
  const int rivals = scores_open ? pages : pages - 1;       // for `chosen` places of the list
  const int list_pages = row.list_pages, chosen = scores_open ? list_pages : list_pages - 1;
  const int32_t* table = row.table;

  // Scores: this block's tiles of pages, taken by its warps in turn.
  const int page_tiles = chosen > 0 ? (scored + kTilePages - 1) / kTilePages : 0;
  const int first_pages = page_tiles * rank / blocks + warp, end_pages = page_tiles * (rank + 1) / blocks;
  const int page_steps = first_pages < end_pages ? (end_pages - first_pages + kWarps - 1) / kWarps : 0;
  const T* metadata = static_cast<const T*>(p.metadata) + kv_head * p.pages * 2 * D;
  const auto bounds_id = [&](int i, int entry) {
    const int page = (first_pages + i * kWarps) * kTilePages + entry;
    return i < page_steps && page < scored ? table[page] : 0;
  };
  PageIds<decltype(bounds_id)> bounds_at(bounds_id, 3, lane);
  int slot = 0;  // the next to be used; the one before it is the next to be filled
  const auto next_slot = [&] { slot = slot + 1 == kSlots ? 0 : slot + 1; };
  // Rows 0..7 of the slot: minima of eight pages, rows 8..15: maxima.
  const auto issue_bounds = [&](int i, int to_slot) {
    if (i < page_steps) {
      bounds_at.begin(i, lane);
      T* to = ring + to_slot * kSlotElements;
#pragma unroll
      for (int j = 0; j < kCopies / 2; ++j) {
        const int r = (j * 32 + lane) / kChunks, c = lane % kChunks;
        const T* from = metadata + static_cast<int64_t>(bounds_at.of(i, r)) * 2 * D + c * 8;
        copy_async16(to + row_chunk<D>(r, c), from, true);
        copy_async16(to + row_chunk<D>(r + kTilePages, c), from + D, true);
      }
    }
    copy_async_commit();
  };
  const bool early = p.settled && !scores_open;
  if (!early) dependency_wait();
#pragma unroll 1
  for (int i = 0; i < kSlots; ++i) issue_bounds(i, i);
  select_prepare<kThreads>(selection);
  const bool appends = p.append.n_tasks > 0;
  auto* turns = reinterpret_cast<float2*>(shared + layout.turns);  // [D / 2]
  const int pair = thread - (kThreads - D / 2);  // the last threads have one each
  int newest_page = 0;
  if (appends) {
    if (pair >= 0) {
      newest_page = table[pages - 1];
      turns[pair] = rotary_turn(n - 1, p.append.inv_freq[pair], p.append.attention_factor);
    }
    __syncthreads();
  }
  if (early) dependency_wait();

  GroupQueries<D> queries;
  queries.load(static_cast<const T*>(a.q) + row.row * a.q_stride + kv_head * group * D, group, lane);
  if (appends) {
    if (rank == blocks - 1 && pair >= 0) {
      append_pair<T>(p.append, {row.row, 1, n - 1, newest_page, -1}, kv_head, pair, [&](int) { return turns[pair]; });
    }
    rotate_queries<T>(queries, p.append, turns, kv_head * group, group, lane);
  }
  float lowest = -kMinusInfinity, highest = kMinusInfinity;  // of this lane's scores
  const auto post_score = [&](int page, float score, bool stores) {
    score = fmaxf(score, kMinusInfinity);  // NaN: -inf
    lowest = fminf(lowest, score);
    highest = fmaxf(highest, score);
    if (stores) board_post(board + page, score);
  };
#pragma unroll 1
  for (int i = 0; i < page_steps; ++i) {
    copy_async_wait<kSlots - 1>();
    __syncwarp();
    const T* bounds = ring + slot * kSlotElements;
    uint4 low[D / 32], high[D / 32];
#pragma unroll
    for (int j = 0; j < D / 32; ++j) {
      low[j] = *reinterpret_cast<const uint4*>(bounds + row_chunk<D>(lane / 4, 4 * j + lane % 4));
      high[j] = *reinterpret_cast<const uint4*>(bounds + row_chunk<D>(lane / 4 + kTilePages, 4 * j + lane % 4));
    }
    __syncwarp();
    issue_bounds(i + kSlots, slot);
    next_slot();
    if (i + kSlots >= page_steps) dependency_release();  // the next kernel's first reads fill the time of the selection
    const float score = group_score(page_scores<T, D>(queries, low, high), group, row.mean != 0, lane);
    const int page = (first_pages + i * kWarps) * kTilePages + lane / 4;
    if (page < scored) post_score(page, score, lane % 4 == 0);
  }
  dependency_release();
  if (scores_open && scored < pages && rank == blocks - 1 && warp == kWarps - 1) {
    const T* keys = static_cast<const T*>(a.kv) + (static_cast<int64_t>(table[scored]) * s.n_kv_heads + kv_head) * 2 * (static_cast<int64_t>(D) << shift);
    const float score = group_score(open_page_scores<T, D>(queries, keys, n - (scored << shift), lane), group, row.mean != 0, lane);
    const float of_lane0 = __shfl_sync(kFull, score, 0);
    post_score(scored, of_lane0, lane == 0);
  }
  // Selection: every block for itself, from the scores that all have posted, so that lists need not travel.
  if (!scores_open && thread == 0) list[chosen] = pages - 1;
  if (chosen > 0) {
    const auto range_of = [](float low, float high) {  // over lanes
      return float2{from_ordered_key(__reduce_min_sync(kFull, ordered_key(low))), from_ordered_key(__reduce_max_sync(kFull, ordered_key(high)))};
    };
    const float2 of_warp = range_of(lowest, highest);
    uint32_t* ranges = board + posts.ranges;
    if (lane < 2) board_post(ranges + 2 * (rank * kWarps + warp) + lane, lane == 0 ? of_warp.x : of_warp.y);
    __syncthreads();  // the rings are free for scores
    // All words are asked for at once (L2, where they are posted, answers; no other cache is asked), and those that nobody has
    // posted yet again.
    const auto room = static_cast<int>(select_room(rivals));
    float2 range;  // of this lane's part of all warps
#pragma unroll 1
    for (int base = thread * 4; base < room; base += kThreads * 4) copy_async16(scores + base, board + base, base < rivals);
    board_await([&] {
      bool missing = false;
      range = {-kMinusInfinity, kMinusInfinity};
      copy_async_commit();
#pragma unroll 1
      for (int w = lane; w < blocks * kWarps; w += 32) {
        const uint2 words = board_pair(ranges + 2 * w);
        missing |= (words.x == kBlank) | (words.y == kBlank);
        float2 of_it;
        __builtin_memcpy(&of_it, &words, 8);
        range = {fminf(range.x, of_it.x), fmaxf(range.y, of_it.y)};
      }
      copy_async_wait<0>();
#pragma unroll 1
      for (int base = thread * 4; base < rivals; base += kThreads * 4) {
        const uint4 words = *reinterpret_cast<const uint4*>(scores + base);
        const int valid = rivals - base;
        const bool blank = (words.x == kBlank) | ((words.y == kBlank) & (valid > 1)) | ((words.z == kBlank) & (valid > 2)) | ((words.w == kBlank) & (valid > 3));
        if (blank) copy_async16(scores + base, board + base, true);
        missing |= blank;
      }
      return !missing;
    });
    range = range_of(range.x, range.y);
    const Bins bins(range.x, range.y);
#pragma unroll 1
    for (int base = thread * 4; base < room; base += kThreads * 4) {
      float4 four = *reinterpret_cast<float4*>(scores + base);
      const int valid = rivals - base;
      if (valid < 4) {  // what the board has there is no score
        if (valid < 1) four.x = kMinusInfinity;
        if (valid < 2) four.y = kMinusInfinity;
        if (valid < 3) four.z = kMinusInfinity;
        four.w = kMinusInfinity;
        *reinterpret_cast<float4*>(scores + base) = four;
      }
      select_count(selection, bins, four);
    }
    select_top<kThreads>(scores, room, chosen, bins, selection, [&](int i, int page) { list[i] = page; });
  }
  __syncthreads();

  // Attention over this block's tiles of the list.
  const int missing = list[list_pages - 1] == pages - 1 ? (pages << shift) - n : 0;  // of the open page; it is the list's last
  const int tokens = (list_pages << shift) - missing;                                // valid ones are the first, in list order
  const int tiles = (tokens + kTileTokens - 1) / kTileTokens;
  const int first_tile = tiles * rank / blocks + warp, end_tile = tiles * (rank + 1) / blocks;
  const int steps = first_tile < end_tile ? (end_tile - first_tile + kWarps - 1) / kWarps : 0;
  const int entry_shift = shift < 4 ? 4 - shift : 0, tile_shift = shift > 4 ? shift - 4 : 0;  // pages of a tile; tiles of a page
  const int64_t half_page = static_cast<int64_t>(D) << shift;
  const auto tile_id = [&](int i, int entry) {
    const int at = ((first_tile + i * kWarps) << entry_shift >> tile_shift) + entry;
    return i < steps && at < list_pages ? table[list[at]] : 0;
  };
  PageIds<decltype(tile_id)> pages_at(tile_id, entry_shift, lane);
  // Slots alternate: keys of a tile, values of the tile.
  const auto issue_tile = [&](int m, int to_slot) {
    const int i = m >> 1, tile = first_tile + i * kWarps, rows_shift = 4 - entry_shift;
    if (i < steps) {
      const bool values = m & 1;
      if (!values) pages_at.begin(i, lane);
      T* to = ring + to_slot * kSlotElements;
      const int chunk = lane % kChunks, valid = tokens - tile * kTileTokens;
      const T* from0 = static_cast<const T*>(a.kv) + (static_cast<int64_t>(kv_head) * 2 + values) * half_page + chunk * 8;
      const int64_t page_stride = static_cast<int64_t>(s.n_kv_heads) * 2 * half_page;
      if (entry_shift == 0) {  // one page
        const T* from = from0 + pages_at.of(i, 0) * page_stride + ((tile & ((1 << tile_shift) - 1)) * kTileTokens + lane / kChunks) * D;
#pragma unroll
        for (int j = 0; j < kCopies; ++j) {
          const int r = j * (32 / kChunks) + lane / kChunks;
          copy_async16(to + (values ? column_chunk<D>(r, chunk) : row_chunk<D>(r, chunk)), from + j * (32 / kChunks) * D, r < valid);
        }
      } else {
#pragma unroll 1
        for (int j = 0; j < kCopies; ++j) {
          const int r = j * (32 / kChunks) + lane / kChunks;
          const T* from = from0 + pages_at.of(i, r >> rows_shift) * page_stride + (r & ((1 << rows_shift) - 1)) * D;
          copy_async16(to + (values ? column_chunk<D>(r, chunk) : row_chunk<D>(r, chunk)), from, r < valid);
        }
      }
    }
    copy_async_commit();
  };
  copy_async_wait<0>();
  __syncwarp();
  slot = 0;
#pragma unroll 1
  for (int m = 0; m < kSlots; ++m) issue_tile(m, m);
  if (rank == 0) {
    int32_t* out = p.lists + (static_cast<int64_t>(blockIdx.z) * s.n_lists + kv_head) * a.list_stride;
    for (int i = thread; i < list_pages; i += kThreads) out[i] = list[i];
    if (thread == 0 && scores_open && missing > 0 && p.open_selected) atomicAdd(&p.open_selected[blockIdx.z], 1);
  }
  GroupSums<T, D> sums;
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    float score[4];
    uint32_t weights[2];
    copy_async_wait<kSlots - 1>();
    __syncwarp();
    sums.logits(score, ring + slot * kSlotElements, queries, tokens - (first_tile + i * kWarps) * kTileTokens, lane);
    __syncwarp();
    issue_tile(2 * i + kSlots, slot);
    next_slot();
    sums.weigh(score, weights);
    copy_async_wait<kSlots - 1>();
    __syncwarp();
    sums.add(ring + slot * kSlotElements, weights, lane);
    __syncwarp();
    issue_tile(2 * i + 1 + kSlots, slot);
    next_slot();
  }

  // Warps (through the rings, which are idle now), then blocks.
  constexpr int kPart = D + 2;  // values, maximum, sum
  constexpr int kRingFloats = kSlots * kSlotElements * static_cast<int>(sizeof(T)) / 4;
  static_assert(kGroupHeads * kPart <= kRingFloats);
  const auto merged = [&](int w, int h) { return reinterpret_cast<float*>(shared) + w * kRingFloats + h * kPart; };
  sums.store([&](int h) { return merged(warp, h); }, group, lane);
  __syncthreads();
  uint32_t* parts = board + posts.parts;
  for (int i = thread; i < group * D; i += kThreads) {
    const int h = i / D, c = i % D;
    float top = kMinusInfinity, total = 0, value = 0;
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, merged(w, h)[D]);
    for (int w = 0; w < kWarps; ++w) {
      const float* part = merged(w, h);
      const float scale = part[D + 1] > 0 ? exp2_approx(part[D] - top) : 0.0f;
      total += part[D + 1] * scale;
      value += part[c] * scale;
    }
    uint32_t* part = parts + (static_cast<int64_t>(rank) * group + h) * kPart;
    board_post(part + c, value);
    if (c == 0) {
      board_post(part + D, top);
      board_post(part + D + 1, total);
    }
  }

  // The heads' outputs, shared out over the blocks. Who has all parts of a head knows that its scores have been read.
  for (int h = rank; h < group; h += blocks) {
    const int c = thread;
    uint32_t* posted = parts + h * kPart;
    const int64_t stride = static_cast<int64_t>(group) * kPart;
    if (c < D) {
      float3 all{0, kMinusInfinity, 0};
      for (int first = 0; first < blocks; first += kGathered) {
        uint32_t word[kGathered][3];
        board_await([&] {
          bool there = true;
#pragma unroll
          for (int i = 0; i < kGathered; ++i) {
            if (first + i >= blocks) continue;
            const uint32_t* part = posted + (first + i) * stride;
            word[i][0] = board_word(part + c);
            word[i][1] = board_word(part + D);
            word[i][2] = board_word(part + D + 1);
            there = there && word[i][0] != kBlank && word[i][1] != kBlank && word[i][2] != kBlank;
          }
          return there;
        });
        float top = all.y;
        float3 part[kGathered];
#pragma unroll
        for (int i = 0; i < kGathered; ++i) {
          part[i] = {0, kMinusInfinity, 0};
          if (first + i < blocks) __builtin_memcpy(&part[i], word[i], 12);
          top = fmaxf(top, part[i].y);
        }
        const float old = all.z > 0 ? exp2_approx(all.y - top) : 0.0f;
        all = {all.x * old, top, all.z * old};
#pragma unroll
        for (int i = 0; i < kGathered; ++i) {
          const float scale = part[i].z > 0 ? exp2_approx(part[i].y - top) : 0.0f;
          all.x += part[i].x * scale;
          all.z += part[i].z * scale;
        }
      }
      T* out = static_cast<T*>(a.out) + (static_cast<int64_t>(row.row) * s.n_heads + kv_head * group + h) * D;
      out[c] = from_float<T>(all.x / all.z);
    }
    __syncthreads();
    for (int i = thread; i < blocks * kPart; i += kThreads) posted[i / kPart * stride + i % kPart] = kBlank;
    if (h == 0 && chosen > 0) {
      for (int i = thread * 4; i < rivals; i += kThreads * 4) *reinterpret_cast<uint4*>(board + i) = {kBlank, kBlank, kBlank, kBlank};
      for (int i = thread; i < 2 * kWarps * blocks; i += kThreads) board[posts.ranges + i] = kBlank;
    }
  }
}
#endif

template <class T, int D, int kSlots>
__global__ void QUEST_LAUNCH_BOUNDS(kThreads, 2) sparse_kernel(SparseParams p) {
#if defined(QUEST_EMULATE) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)
  sparse_body<T, D, kSlots>(p);
#endif
}

size_t shared_bytes(const DecodeShape& s, const SparsePlan& plan, int64_t max_pages, int64_t list_pages) {
  return layout_of(s.head_dim, plan, max_pages, list_pages).bytes;
}

}  // namespace

bool sparse_fuses() {
#ifdef QUEST_EMULATE
  return true;
#else
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(sparse_kernel<__half, 128, 3>)), "cudaFuncGetAttributes");
  return attributes.ptxVersion >= 90;  // a build for older GPUs alone leaves the kernel empty
#endif
}

SparsePlan sparse_plan(const DecodeShape& s, int n_rows, int64_t max_pages, int64_t list_pages, int sms) {
  const int64_t heads = int64_t{n_rows} * s.n_kv_heads;
  if ((s.head_dim != 64 && s.head_dim != 128) || s.n_lists != s.n_kv_heads || s.n_heads > kGroupHeads * s.n_kv_heads || heads > 4 * sms) return {};
  SparsePlan plan;
  plan.blocks = static_cast<int>(std::clamp<int64_t>(sms / heads, 1, kMaxBlocks));
  plan.alone = heads * plan.blocks <= sms;
  for (int slots : {4, 3, 2}) {
    plan.slots = slots;
    if (shared_bytes(s, plan, max_pages, list_pages) <= (plan.alone || slots == 2 ? shared_limit() : std::min(kHalfShared, shared_limit()))) return plan;
  }
  return {};
}

int64_t sparse_board_words(const DecodeShape& s, int n_rows, int64_t max_pages, const SparsePlan& plan) {
  return int64_t{n_rows} * s.n_kv_heads * board_layout(s.head_dim, plan.blocks, s.n_heads / s.n_kv_heads, max_pages).head;
}

void sparse_attention(const SparseParams& p, const Launch& how) {
  const DecodeParams& a = p.attention;
  if (a.n_rows == 0) return;
  if (p.plan.blocks == 0) {
    if (p.append.n_tasks > 0) rope_append(p.append, how);
    estimate({a.rows, a.n_rows, a.shape, a.q, a.q_stride, p.metadata, a.kv, p.pages, p.scores, p.score_stride, p.blocks}, how);
    top_k({a.rows, a.n_rows, a.shape, p.scores, p.score_stride, p.max_pages, p.lists, a.list_stride, p.open_selected}, how);
    decode_attention(a, how);
    return;
  }
  const dim3 grid(static_cast<unsigned>(p.plan.blocks), static_cast<unsigned>(a.shape.n_kv_heads), static_cast<unsigned>(a.n_rows));
  size_t bytes = shared_bytes(a.shape, p.plan, p.max_pages, a.list_stride);
  if (p.plan.alone) bytes = std::max(bytes, std::min(kHalfShared + 16, shared_limit()));
  with_half(a.shape.type, [&](auto t) {
    using T = decltype(t);
    const auto with_slots = [&](auto d) {
      constexpr int D = decltype(d)::value;
      const auto with = [&](auto slots) { launch_side_by_side(how, "sparse_attention", sparse_kernel<T, D, decltype(slots)::value>, grid, kThreads, bytes, p); };
      if (p.plan.slots == 4) return with(std::integral_constant<int, 4>{});
      if (p.plan.slots == 3) return with(std::integral_constant<int, 3>{});
      with(std::integral_constant<int, 2>{});
    };
    if (a.shape.head_dim == 64) return with_slots(std::integral_constant<int, 64>{});
    with_slots(std::integral_constant<int, 128>{});
  });
  if (p.others) {
    DecodeParams rest = a;
    rest.selectors_done = true;
    decode_attention(rest, how);
  }
}

}  // namespace quest::cuda
