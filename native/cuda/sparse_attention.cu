// The whole Quest step of one layer, page scores + top-k + attention over the chosen pages: one launcher for the chain of
// estimate, top_k and decode_attention, and for the kernel here that does all three on Hopper.
//
// A cluster of blocks serves one KV head of one row. Each block streams its share of the pages' bounds through shared memory
// and stores the scores into every block of the cluster; after a cluster barrier each block selects from all scores
// (selection.cuh; redundant, but nothing has to travel), attends to its share of the chosen pages, and stores its partial
// result into the block that merges that head. Nothing but the output goes through global memory (and the lists, for
// traces). The pages chosen are those of the unfused chain: scores are the same bits (group_tile.cuh).
//
// Data come in the background (cp.async) into rings of two or three slots, one ring per warp: eight pages' bounds, sixteen
// keys or sixteen values in a slot, 64 or 96 KB per block at head_dim 128. A warp waits for its slot, uses it, asks for what
// comes a ring later; warps meet only at the selection and at the end. Bounds that were final before this step (`settled`)
// are asked for before the previous kernel has ended.
//
// The newest token of a single step: its rotation and its way into the cache (rope_append) are part of this kernel where the
// caller asks for it, so that it follows the projection directly and its rings fill while that still runs. Every warp rotates
// the queries it has loaded in registers; cosines and sines depend on nothing and are in shared memory by then. The first
// block of a cluster stores key and value and updates the open page's bounds; the others read that page only after a cluster
// barrier, and no block reads those bounds. Not where an open page is scored: one that has just been filled is
// scored by its bounds in the same step.
//
// Two blocks must fit on a multiprocessor: where only one does, a GPU's clusters of four do not all run at once (132
// multiprocessors hold 30 or 31 of them), and the second round doubles the time.
//
// Bytes: 4 d per page and KV head, then 4 d per chosen token and KV head. 32 heads, d 128, 32K, 2048 chosen: 67 MB, 21.7 us at
// 3.09 TB/s; 128K: 168 MB, 54 us; 32/8 heads: 5.4 and 13.6 us.
// Measured on an H100: 32.5 and 71.8 us; 32/8 heads 15.8 and 30.1 us. (The chain of kernels: 43.1, 79.4, 23.6, 35.2.)
// What is lost: 3 us of selection, 1 us per cluster barrier, and clusters that share multiprocessors with others, which attend
// up to half as long again as those that do not.
// Test: quest_cuda_tests --gtest_filter='Sparse*'. Time: quest_cuda_bench attention.
#include <algorithm>

#include "cuda/cluster.cuh"
#include "cuda/group_tile.cuh"
#include "cuda/rotary.cuh"
#include "cuda/selection.cuh"

namespace quest::cuda {

namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kTilePages = 8;    // bounds in a slot
constexpr int kTileTokens = 16;  // keys, or values, in a slot
constexpr int kMaxCluster = 8;  // what every GPU with clusters has
constexpr size_t kHalfShared = 228 * 1024 / 2 - 1024;  // two blocks per multiprocessor on sm_90

// What lies where in a block's dynamic shared memory, in bytes.
struct Layout {
  size_t selection, ranges, scores, list, parts, bytes;
};
inline __host__ __device__ Layout layout_of(int d, int slots, int heads, int cluster, int64_t pages, int64_t list_pages) {
  const auto aligned = [](size_t n) { return (n + 15) / 16 * 16; };
  Layout l{};
  l.selection = static_cast<size_t>(kWarps * slots * kTileTokens * d) * 2;  // after the rings
  l.ranges = l.selection + aligned(sizeof(SelectScratch<kWarps>));
  l.scores = l.ranges + static_cast<size_t>(cluster * kWarps) * 2 * sizeof(uint32_t);
  l.list = l.scores + aligned(static_cast<size_t>(pages) * sizeof(float));
  l.parts = l.list + aligned(static_cast<size_t>(list_pages) * sizeof(int32_t));
  l.bytes = l.parts + static_cast<size_t>((heads + cluster - 1) / cluster * cluster * (d + 2)) * sizeof(float);
  return l;
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
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int kv_head = static_cast<int>(blockIdx.y), clusters = static_cast<int>(gridDim.x), rank = cluster_rank();
  const Layout layout = layout_of(D, kSlots, group, clusters, p.max_pages, a.list_stride);
  unsigned char* shared = dynamic_shared();
  T* ring = reinterpret_cast<T*>(shared) + warp * kSlots * kSlotElements;
  auto& selection = *reinterpret_cast<SelectScratch<kWarps>*>(shared + layout.selection);
  auto* ranges = reinterpret_cast<uint32_t*>(shared + layout.ranges);  // [cluster, warps] lowest and highest score keys
  auto* scores = reinterpret_cast<float*>(shared + layout.scores);
  auto* list = reinterpret_cast<int32_t*>(shared + layout.list);

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
  const int32_t* table = row.table;

  // Scores: this block's tiles of pages, taken by its warps in turn.
  const int page_tiles = (scored + kTilePages - 1) / kTilePages;
  const int first_pages = page_tiles * rank / clusters + warp, end_pages = page_tiles * (rank + 1) / clusters;
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
  for (int i = 0; i < kSlots; ++i) issue_bounds(i, i);
  select_prepare<kThreads>(selection);
  cluster_arrive();  // every block has begun before others store into it
  const bool appends = p.append.n_tasks > 0;
  auto* turns = reinterpret_cast<float2*>(shared + layout.parts);  // [D / 2]: one part has room for them, and parts come last
  const int pair = static_cast<int>(threadIdx.x) - (kThreads - D / 2);  // the last threads have one each
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
    if (rank == 0 && pair >= 0) {
      append_pair<T>(p.append, {row.row, 1, n - 1, newest_page, -1}, kv_head, pair, [&](int) { return turns[pair]; });
    }
    rotate_queries<T>(queries, p.append, turns, kv_head * group, group, lane);
  }
  uint32_t lowest = 0xffffffffu, highest = 0;
  // The four lanes of a page store to different blocks.
  const auto store = [&](float score, int page) {
    lowest = min(lowest, ordered_key(score));
    highest = max(highest, ordered_key(score));
    for (int to = lane % 4; to < clusters; to += 4) store_remote(scores + page, to, score);
  };
  cluster_wait();
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
    if (page < scored) store(score, page);
  }
  dependency_release();
  if (scores_open && scored < pages && rank == clusters - 1 && warp == kWarps - 1) {
    const T* keys = static_cast<const T*>(a.kv) + (static_cast<int64_t>(table[scored]) * s.n_kv_heads + kv_head) * 2 * (static_cast<int64_t>(D) << shift);
    const float score = group_score(open_page_scores<T, D>(queries, keys, n - (scored << shift), lane), group, row.mean != 0, lane);
    if (lane / 4 == 0) store(score, scored);
  }
  lowest = __reduce_min_sync(kFull, lowest);
  highest = __reduce_max_sync(kFull, highest);
  if (lane < clusters) {
    store_remote(ranges + (rank * kWarps + warp) * 2, lane, lowest);
    store_remote(ranges + (rank * kWarps + warp) * 2 + 1, lane, highest);
  }
  cluster_arrive();
  cluster_wait();

  // Selection.
  const int list_pages = row.list_pages, chosen = scores_open ? list_pages : list_pages - 1;
  if (!scores_open && threadIdx.x == 0) list[chosen] = pages - 1;
  if (chosen > 0) {
    for (int i = lane; i < clusters * kWarps; i += 32) {
      lowest = min(lowest, ranges[2 * i]);
      highest = max(highest, ranges[2 * i + 1]);
    }
    lowest = __reduce_min_sync(kFull, lowest);
    highest = __reduce_max_sync(kFull, highest);
    select_top<kThreads>(scores, scores_open ? pages : pages - 1, chosen, lowest, highest, selection, [&](int i, int page) { list[i] = page; });
  }
  __syncthreads();

  // Attention over this block's tiles of the list.
  const int missing = list[list_pages - 1] == pages - 1 ? (pages << shift) - n : 0;  // of the open page; it is the list's last
  const int tokens = (list_pages << shift) - missing;                                // valid ones are the first, in list order
  const int tiles = (tokens + kTileTokens - 1) / kTileTokens;
  const int first_tile = tiles * rank / clusters + warp, end_tile = tiles * (rank + 1) / clusters;
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
  for (int m = 0; m < kSlots; ++m) issue_tile(m, m);
  if (rank == 0) {
    int32_t* out = p.lists + (static_cast<int64_t>(blockIdx.z) * s.n_lists + kv_head) * a.list_stride;
    for (int i = static_cast<int>(threadIdx.x); i < list_pages; i += kThreads) out[i] = list[i];
    if (threadIdx.x == 0 && scores_open && missing > 0 && p.open_selected) atomicAdd(&p.open_selected[blockIdx.z], 1);
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
  // Of `count` parts `stride` floats apart: column c, the maximum and the sum.
  const auto merge = [](const float* part, int stride, int count, int c) {
    float top = kMinusInfinity, total = 0, value = 0;
    for (int i = 0; i < count; ++i) top = fmaxf(top, part[i * stride + D]);
    for (int i = 0; i < count; ++i) {
      const float scale = part[i * stride + D + 1] > 0 ? exp2_approx(part[i * stride + D] - top) : 0.0f;
      total += part[i * stride + D + 1] * scale;
      value += part[i * stride + c] * scale;
    }
    return float3{value, top, total};
  };
  auto* parts = reinterpret_cast<float*>(shared + layout.parts);  // [heads merged here][cluster][kPart]
  for (int i = static_cast<int>(threadIdx.x); i < group * D; i += kThreads) {
    const int h = i / D, c = i % D, to = h % clusters;
    const float3 m = merge(merged(0, h), kRingFloats, kWarps, c);
    float* part = parts + (h / clusters * clusters + rank) * kPart;
    store_remote(part + c, to, m.x);
    if (c == 0) {
      store_remote(part + D, to, m.y);
      store_remote(part + D + 1, to, m.z);
    }
  }
  cluster_arrive();
  if (rank >= group) return;
  cluster_wait();
  T* out = static_cast<T*>(a.out) + (static_cast<int64_t>(row.row) * s.n_heads + kv_head * group) * D;
  const int here = (group - rank + clusters - 1) / clusters;
  for (int i = static_cast<int>(threadIdx.x); i < here * D; i += kThreads) {
    const int c = i % D;
    const float3 m = merge(parts + i / D * clusters * kPart, kPart, clusters, c);
    out[(rank + i / D * clusters) * D + c] = from_float<T>(m.x / m.z);
  }
}
#endif

template <class T, int D, int kSlots>
__global__ void QUEST_LAUNCH_BOUNDS(kThreads, 2) sparse_kernel(SparseParams p) {
#if defined(QUEST_EMULATE) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)
  sparse_body<T, D, kSlots>(p);
#endif
}

size_t max_shared() { return std::min(kHalfShared, shared_limit()); }

size_t shared_bytes(const DecodeShape& s, int slots, int cluster, int64_t max_pages, int64_t list_pages) {
  return layout_of(s.head_dim, slots, s.n_heads / s.n_kv_heads, cluster, max_pages, list_pages).bytes;
}

}  // namespace

bool sparse_fuses() {
#ifdef QUEST_EMULATE
  return true;
#else
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(sparse_kernel<__half, 128, 2>)), "cudaFuncGetAttributes");
  return attributes.ptxVersion >= 90;  // a build for older GPUs alone leaves the kernel empty
#endif
}

int sparse_cluster(const DecodeShape& s, int n_rows, int64_t max_pages, int64_t list_pages, int sms) {
  const int64_t heads = int64_t{n_rows} * s.n_kv_heads;
  if ((s.head_dim != 64 && s.head_dim != 128) || s.n_lists != s.n_kv_heads || s.n_heads > kGroupHeads * s.n_kv_heads || heads > 4 * sms) return 0;
  int cluster = 1;
  while (cluster < kMaxCluster && heads * cluster * 2 <= sms) cluster *= 2;
  while (cluster > 1 && shared_bytes(s, 2, cluster, max_pages, list_pages) > max_shared()) cluster /= 2;
  return shared_bytes(s, 2, cluster, max_pages, list_pages) <= max_shared() ? cluster : 0;
}

void sparse_attention(const SparseParams& p, const Launch& how) {
  const DecodeParams& a = p.attention;
  if (a.n_rows == 0) return;
  if (p.cluster == 0) {
    if (p.append.n_tasks > 0) rope_append(p.append, how);
    estimate({a.rows, a.n_rows, a.shape, a.q, a.q_stride, p.metadata, a.kv, p.pages, p.scores, p.score_stride, p.blocks}, how);
    top_k({a.rows, a.n_rows, a.shape, p.scores, p.score_stride, p.max_pages, p.lists, a.list_stride, p.open_selected}, how);
    decode_attention(a, how);
    return;
  }
  const dim3 grid(static_cast<unsigned>(p.cluster), static_cast<unsigned>(a.shape.n_kv_heads), static_cast<unsigned>(a.n_rows));
  const int slots = shared_bytes(a.shape, 3, p.cluster, p.max_pages, a.list_stride) <= max_shared() ? 3 : 2;
  const size_t bytes = shared_bytes(a.shape, slots, p.cluster, p.max_pages, a.list_stride);
  with_half(a.shape.type, [&](auto t) {
    using T = decltype(t);
    const auto with = [&](auto d) {
      constexpr int D = decltype(d)::value;
      launch(how, "sparse_attention", slots == 3 ? sparse_kernel<T, D, 3> : sparse_kernel<T, D, 2>, grid, kThreads, bytes, p, static_cast<unsigned>(p.cluster));
    };
    if (a.shape.head_dim == 64) return with(std::integral_constant<int, 64>{});
    with(std::integral_constant<int, 128>{});
  });
  if (p.others) {
    DecodeParams rest = a;
    rest.selectors_done = true;
    decode_attention(rest, how);
  }
}

}  // namespace quest::cuda
