// H2O and TOVA bookkeeping after a decode step: fold the step's probabilities into the kept tokens' scores, drop the lowest.
//
//   p[h, j] = 2^(logit[h, j] - max[h]) / sum[h]
//   H2O (a list per KV head):  score[j] = accumulated[j] + sum of p over the group's heads;  the newest are protected
//   TOVA (one list per layer): score[j] = sum of p over all heads
//   while more than `budget` are kept, drop the lowest score (ties: the lower index first; NaN before all)
//
// One block per list. The lists stay ascending; tokens and accumulated scores are compacted in place, chunk by chunk (a
// chunk is read before its part of the result is written, and results never run ahead of the reading). Before the first
// drop a list is 0 .. n-1 and is not stored.
//
// Bytes: heads * kept * 4 of logits, 0.26 MB for 32 heads and 2048 kept: launch latency and up to 17 counting rounds, about 6 us.
// Test: quest_cuda_tests --gtest_filter='Evict*'.
#include "cuda/dispatch.cuh"
#include "cuda/selection.cuh"

namespace quest::cuda {

namespace {

constexpr int kThreads = 512;

__global__ void QUEST_LAUNCH_BOUNDS(kThreads) evict_kernel(EvictParams p) {
  __shared__ uint4 scratch[2 * kThreads / 32];
  dependency_wait();
  dependency_release();
  const DecodeRow& row = p.rows[blockIdx.y];
  const DecodeShape& s = p.shape;
  const int which = static_cast<int>(blockIdx.x);
  if (row.reading != Reading::evictor || s.layer < row.skip_layers || which >= row.kept_lists) return;
  const int tid = static_cast<int>(threadIdx.x);
  const int group = s.n_heads / s.n_kv_heads;
  const int head0 = row.kept_lists == 1 ? 0 : which * group, heads = row.kept_lists == 1 ? s.n_heads : group;
  const int64_t stored = (static_cast<int64_t>(s.layer) * row.kept_lists + which) * row.kept_stride;
  int32_t* tokens = row.kept_tokens + stored;
  float* accumulated = row.kept_scores ? row.kept_scores + stored : nullptr;
  float* score = p.scores + (static_cast<int64_t>(blockIdx.y) * s.n_kv_heads + which) * p.logit_stride;
  const int kept = row.kept;

  const float* first = row.first_scores ? row.first_scores + (static_cast<int64_t>(s.layer) * s.n_kv_heads + which) * row.first_stride : nullptr;
  for (int j = tid; j < kept; j += kThreads) {
    float total = 0;
    if (first) {
      if (j < kept - 1) total = first[j];
    } else if (accumulated && j < kept - 1 && kept - 1 <= row.budget) {
      total = accumulated[j];  // a longer list is a prompt at its first step: nothing has been accumulated
    }
    for (int h = head0; h < head0 + heads; ++h) {
      const int64_t at = static_cast<int64_t>(blockIdx.y) * s.n_heads + h;
      total += exp2f(p.logits[at * p.logit_stride + j] - p.norms[2 * at]) / p.norms[2 * at + 1];
    }
    score[j] = total;
  }
  __syncthreads();
  const int drop = kept - row.budget;
  if (drop <= 0) {
    if (accumulated) {
      for (int j = tid; j < kept; j += kThreads) accumulated[j] = score[j];
    }
    if (!row.kept_all && tid == 0) tokens[kept - 1] = row.n - 1;
    return;
  }

  // The drop-th lowest is the drop-th largest of the complemented keys.
  const int candidates = kept - row.protect;
  const Threshold t = kth_largest(drop, scratch, [&](auto&& count) {
    for (int j = tid; j < candidates; j += kThreads) count(~ordered_key(score[j]));
  });
  __syncthreads();
  const unsigned ties = static_cast<unsigned>(drop) - t.above;
  unsigned before = 0, equal_before = 0;
  for (int chunk = 0; chunk < kept; chunk += kThreads) {
    const int j = chunk + tid;
    const bool there = j < kept, candidate = j < candidates;
    const uint32_t key = candidate ? ~ordered_key(score[j]) : 0;
    const bool equal = candidate && key == t.key;
    const int token = !there ? 0 : j == kept - 1 ? row.n - 1 : row.kept_all ? j : tokens[j];
    const float kept_score = there ? score[j] : 0.0f;
    const Scan by_tie = block_scan(equal, 0, scratch);
    const bool gone = candidate && (key > t.key || (equal && equal_before + by_tie.before.x < ties));
    const bool stays = there && !gone;
    const Scan by_place = block_scan(stays, 0, scratch);
    if (stays) {
      tokens[before + by_place.before.x] = token;
      if (accumulated) accumulated[before + by_place.before.x] = kept_score;
    }
    before += by_place.total.x;
    equal_before += by_tie.total.x;
    __syncthreads();
  }
}

}  // namespace

void evict_kept(const EvictParams& p, const Launch& how) {
  if (p.n_rows == 0) return;
  const dim3 grid(static_cast<unsigned>(p.shape.n_kv_heads), static_cast<unsigned>(p.n_rows));
  launch(how, "evict", evict_kernel, grid, static_cast<unsigned>(kThreads), 0, p);
}

}  // namespace quest::cuda
