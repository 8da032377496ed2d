// Top-k pages: the k highest scores of each list as an ascending list of page indices, ties to the lower index, NaN last.
//
// scores fp32 [row, list, page] -> lists int32 [row, list, k]. The newest page joins unscored (quest) or competes
// (quest-paper). One block per list, the scores in its shared memory (selection.cuh); lists too long for that are counted
// through in global memory. The order is exact in fp32.
//
// Bytes are few (32 lists of 2048 pages: 0.3 MB); latency is all: four barriers.
// Measured on an H100: 4.2 us, 8.7 us for 8192 pages (8.8 and 13.6 by counting bits); 8 lists: 3.6 and 7.0; target 4 us.
// Test: quest_cuda_tests --gtest_filter='TopK*'. Time: quest_cuda_bench attention.
#include "cuda/dispatch.cuh"
#include "cuda/selection.cuh"

namespace quest::cuda {

namespace {

constexpr size_t kMaxShared = 64 * 1024;  // bytes of scores in shared memory

struct List {
  const float* scores;
  int32_t* list;
  int pages, n, k;   // of the row; scored; chosen among the scored
  bool skip, open;   // open: the last page is scored and partly filled
};

__device__ inline List list_of(const TopKParams& p) {
  const DecodeRow& row = p.rows[blockIdx.y];
  const DecodeShape& s = p.shape;
  const int64_t at = static_cast<int64_t>(blockIdx.y) * s.n_lists + blockIdx.x;
  List l;
  l.skip = row.reading != Reading::selector || s.layer < row.skip_layers;
  l.pages = (row.n + (1 << s.page_shift) - 1) >> s.page_shift;
  l.n = row.scores_open ? l.pages : l.pages - 1;
  l.k = row.scores_open ? row.list_pages : row.list_pages - 1;
  l.open = row.scores_open && row.n != l.pages << s.page_shift;
  l.scores = p.scores + at * p.score_stride;
  l.list = p.lists + at * p.list_stride;
  return l;
}

// The newest page: unscored, it comes last; scored and open, it is counted where it was chosen.
__device__ inline void finish(const TopKParams& p, const List& l) {
  if (l.n < l.pages && threadIdx.x == 0) l.list[l.k] = l.pages - 1;
  if (!p.open_selected || !l.open) return;
  __syncthreads();
  if (threadIdx.x == 0 && l.k > 0 && l.list[l.k - 1] == l.pages - 1) atomicAdd(&p.open_selected[blockIdx.y], 1);
}

template <int kThreads>
__global__ void QUEST_LAUNCH_BOUNDS(kThreads) top_k_kernel(TopKParams p) {
  __shared__ __align__(16) SelectScratch<kThreads / 32> scratch;
  float* scores = reinterpret_cast<float*>(dynamic_shared());
  const List l = list_of(p);  // of the plan, which is older than the previous kernel
  select_prepare<kThreads>(scratch);
  dependency_wait();
  dependency_release();
  if (l.skip) return;
  if (l.k > 0) {
    uint32_t lowest = 0xffffffffu, highest = 0;
    const auto room = static_cast<int>(select_room(l.n));
#pragma unroll 4
    for (int j = static_cast<int>(threadIdx.x); j < room; j += kThreads) {
      const float score = j < l.n ? fmaxf(l.scores[j], kMinusInfinity) : kMinusInfinity;  // NaN: -inf
      scores[j] = score;
      if (j >= l.n) continue;
      lowest = min(lowest, ordered_key(score));
      highest = max(highest, ordered_key(score));
    }
    block_range(lowest, highest, scratch.counts);  // and a barrier
    const Bins bins(from_ordered_key(lowest), from_ordered_key(highest));
#pragma unroll 1
    for (int j = static_cast<int>(threadIdx.x) * 4; j < room; j += kThreads * 4) select_count(scratch, bins, *reinterpret_cast<float4*>(scores + j));
    select_top<kThreads>(scores, room, l.k, bins, scratch, [&](int i, int page) { l.list[i] = page; });
  }
  finish(p, l);
}

template <int kThreads>
__global__ void QUEST_LAUNCH_BOUNDS(kThreads) top_k_long_kernel(TopKParams p) {
  __shared__ uint4 scratch[2 * kThreads / 32];
  dependency_wait();
  dependency_release();
  const List l = list_of(p);
  if (l.skip) return;
  if (l.k > 0) {
    const int tid = static_cast<int>(threadIdx.x);
    const Threshold t = kth_largest(l.k, scratch, [&](auto&& count) {
      for (int j = tid; j < l.n; j += kThreads) count(ordered_key(l.scores[j]));
    });
    __syncthreads();
    const unsigned ties = static_cast<unsigned>(l.k) - t.above;
    uint2 before{0, 0};
    for (int chunk = 0; chunk < l.n; chunk += kThreads) {
      const uint32_t key = chunk + tid < l.n ? ordered_key(l.scores[chunk + tid]) : 0;  // no score has key 0
      const bool above = key > t.key, equal = key != 0 && key == t.key;
      const Scan scan = block_scan(above, equal, scratch);
      const unsigned a = before.x + scan.before.x, e = before.y + scan.before.y;
      if (above || (equal && e < ties)) l.list[a + min(e, ties)] = chunk + tid;
      before.x += scan.total.x;
      before.y += scan.total.y;
    }
  }
  finish(p, l);
}

}  // namespace

void top_k(const TopKParams& p, const Launch& how) {
  if (p.n_rows == 0) return;
  const dim3 grid(static_cast<unsigned>(p.shape.n_lists), static_cast<unsigned>(p.n_rows));
  const auto bytes = static_cast<size_t>(select_room(p.max_pages)) * sizeof(float);
  if (p.max_pages <= 4096) {
    launch(how, "top_k", top_k_kernel<512>, grid, 512, bytes, p);
  } else if (bytes <= kMaxShared) {
    launch(how, "top_k", top_k_kernel<1024>, grid, 1024, bytes, p);
  } else {
    launch(how, "top_k", top_k_long_kernel<1024>, grid, 1024, 0, p);
  }
}

}  // namespace quest::cuda
