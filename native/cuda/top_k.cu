// Top-k pages: the k highest scores of each list as an ascending list of page indices, ties to the lower index, NaN last.
//
// scores fp32 [row, list, page] -> lists int32 [row, list, k]. The newest page joins unscored (quest) or competes
// (quest-paper). One block per list: the k-th largest key is found by counting (selection.cuh), then one scan in index order
// places the chosen pages. A score becomes a key that sorts the same, so the order is exact in fp32.
//
// Bytes are few (32 lists of 2048 pages: 0.3 MB); latency is all: up to 17 rounds of one barrier each, target 4 us.
// Measured on an H100: 6 us (13 us at 8192 pages). Skipping the bits that all keys share did not help: scores of both signs
// share none.
// Test: quest_cuda_tests --gtest_filter='TopK*'. Time: quest_cuda_bench attention.
#include "cuda/dispatch.cuh"
#include "cuda/selection.cuh"

namespace quest::cuda {

namespace {

// kItems > 0: each thread keeps that many consecutive keys in registers; 0: any number, read again in every round.
template <int kThreads, int kItems>
__global__ void QUEST_LAUNCH_BOUNDS(kThreads) top_k_kernel(TopKParams p) {
  __shared__ uint4 scratch[2 * kThreads / 32];
  dependency_wait();
  dependency_release();
  const DecodeRow& row = p.rows[blockIdx.y];
  const DecodeShape& s = p.shape;
  if (row.reading != Reading::selector || s.layer < row.skip_layers) return;
  const int pages = (row.n + (1 << s.page_shift) - 1) >> s.page_shift;
  const int n = row.scores_open ? pages : pages - 1, k = row.scores_open ? row.list_pages : row.list_pages - 1;
  const int64_t at = static_cast<int64_t>(blockIdx.y) * s.n_lists + blockIdx.x;
  const float* scores = p.scores + at * p.score_stride;
  int32_t* list = p.lists + at * p.list_stride;
  const int tid = static_cast<int>(threadIdx.x);
  constexpr int kPer = kItems > 0 ? kItems : 4;
  constexpr int kChunk = kThreads * kPer;

  uint32_t keys[kPer];
  const bool aligned = p.score_stride % 4 == 0;
  const auto load = [&](int chunk) {
#pragma unroll
    for (int i = 0; i < kPer; i += 4) {
      const int j = chunk + tid * kPer + i;
      float4 v{0, 0, 0, 0};
      if (aligned && j + 3 < n) v = *reinterpret_cast<const float4*>(scores + j);
      const float four[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        keys[i + e] = j + e >= n ? 0 : ordered_key(aligned && j + 3 < n ? four[e] : scores[j + e]);  // no score has key 0
      }
    }
  };
  if (kItems > 0) load(0);

  if (k > 0) {
    const Threshold t = kth_largest(k, scratch, [&](auto&& count) {
      if constexpr (kItems > 0) {
#pragma unroll
        for (int i = 0; i < kPer; ++i) count(keys[i]);
      } else {
        for (int j = tid; j < n; j += kThreads) count(ordered_key(scores[j]));
      }
    });
    __syncthreads();
    const unsigned ties = static_cast<unsigned>(k) - t.above;
    uint2 base{0, 0};
    for (int chunk = 0; chunk < n; chunk += kChunk) {
      if (kItems == 0) load(chunk);
      unsigned above = 0, equal = 0;
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        above += keys[i] > t.key;
        equal += keys[i] == t.key;
      }
      const Scan scan = block_scan(above, equal, scratch);
      unsigned a = base.x + scan.before.x, e = base.y + scan.before.y;
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        const bool is_above = keys[i] > t.key, is_equal = keys[i] == t.key;
        if (is_above || (is_equal && e < ties)) {
          const int page = chunk + tid * kPer + i;
          list[a + min(e, ties)] = page;
          if (p.open_selected && row.scores_open && page == pages - 1 && row.n != pages << s.page_shift) {
            atomicAdd(&p.open_selected[blockIdx.y], 1);
          }
        }
        a += is_above;
        e += is_equal;
      }
      base.x += scan.total.x;
      base.y += scan.total.y;
    }
  }
  if (!row.scores_open && tid == 0) list[k] = pages - 1;
}

}  // namespace

void top_k(const TopKParams& p, const Launch& how) {
  if (p.n_rows == 0) return;
  const dim3 grid(static_cast<unsigned>(p.shape.n_lists), static_cast<unsigned>(p.n_rows));
  if (p.max_pages <= 512 * 4) {
    launch(how, "top_k", top_k_kernel<512, 4>, grid, 512, 0, p);
  } else if (p.max_pages <= 1024 * 8) {
    launch(how, "top_k", top_k_kernel<1024, 8>, grid, 1024, 0, p);
  } else {
    launch(how, "top_k", top_k_kernel<1024, 0>, grid, 1024, 0, p);
  }
}

}  // namespace quest::cuda
