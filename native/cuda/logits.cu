// From logits to tokens: greedy argmax, and the negative log-likelihood of given targets. One block per row.
//
//   ids[r] = index of the largest logit, ties to the lower index, NaN counts as -inf
//   nll[r] = log sum exp(logits[r]) - logits[r, target]
//
// logits fp32 [rows, vocab]. Bytes: 0.5 MB for a vocabulary of 128K: launch latency, about 4 us for one row.
// Test: quest_cuda_tests --gtest_filter='Logits*'.
#include "cuda/dispatch.cuh"

namespace quest::cuda {

namespace {

constexpr int kThreads = 1024;

// The larger key wins, then the lower index.
__device__ inline void keep_better(uint32_t& key, int& index, uint32_t other_key, int other_index) {
  if (other_key > key || (other_key == key && other_index < index)) key = other_key, index = other_index;
}

__global__ void QUEST_LAUNCH_BOUNDS(kThreads) argmax_kernel(ArgmaxParams p) {
  __shared__ uint2 scratch[kThreads / 32];
  dependency_wait();
  dependency_release();
  const float* row = p.logits + static_cast<int64_t>(blockIdx.x) * p.vocab;
  uint32_t key = 0;
  int index = 0x7fffffff;
  for (int i = static_cast<int>(threadIdx.x); i < p.vocab; i += kThreads) keep_better(key, index, ordered_key(row[i]), i);
  const auto over_warp = [&] {
#pragma unroll
    for (int o = 16; o > 0; o /= 2) {
      const uint32_t other_key = __shfl_xor_sync(kFull, key, o);
      const int other_index = __shfl_xor_sync(kFull, index, o);
      keep_better(key, index, other_key, other_index);
    }
  };
  over_warp();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (lane == 0) scratch[threadIdx.x / 32] = {key, static_cast<uint32_t>(index)};
  __syncthreads();
  key = scratch[lane].x;
  index = static_cast<int>(scratch[lane].y);
  over_warp();
  if (threadIdx.x == 0) p.ids[blockIdx.x] = index;
}

__global__ void QUEST_LAUNCH_BOUNDS(kThreads) nll_kernel(NllParams p) {
  __shared__ float scratch[kThreads / 32], scratch2[kThreads / 32];
  dependency_wait();
  dependency_release();
  const int target = p.targets[blockIdx.x];
  if (target < 0) return;
  const float* row = p.logits + static_cast<int64_t>(blockIdx.x) * p.vocab;
  float top = kMinusInfinity;
  for (int i = static_cast<int>(threadIdx.x); i < p.vocab; i += kThreads) top = fmaxf(top, row[i]);
  top = warp_max(top);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (lane == 0) scratch[threadIdx.x / 32] = top;
  __syncthreads();
  top = warp_max(scratch[lane]);
  float sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < p.vocab; i += kThreads) sum += expf(row[i] - top);
  sum = block_sum(sum, scratch2);
  if (threadIdx.x == 0) p.nll[blockIdx.x] = logf(sum) + top - row[target];
}

}  // namespace

void argmax(const ArgmaxParams& p, const Launch& how) {
  launch(how, "argmax", argmax_kernel, dim3(static_cast<unsigned>(p.rows)), static_cast<unsigned>(kThreads), 0, p);
}

void negative_log_likelihood(const NllParams& p, const Launch& how) {
  launch(how, "nll", nll_kernel, dim3(static_cast<unsigned>(p.rows)), static_cast<unsigned>(kThreads), 0, p);
}

}  // namespace quest::cuda
