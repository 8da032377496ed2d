// The GPU executor's branch: the pool it shares with its forks, its page table on the device, what its method remembers.
#pragma once

#include <memory>
#include <vector>

#include "core/executor.h"
#include "cuda/kv_pool.h"

namespace quest::cuda {

struct CudaBranch : Branch {
  std::shared_ptr<KvPool> pool;
  std::vector<float> last_logits;  // [vocab] or empty before the first token

  Buffer<int32_t> table;   // [max pages]; the first `uploaded` entries are those of `pages`
  int64_t uploaded = 0;

  // Evictors: lists of [layers, lists, budget + 1] tokens with their accumulated scores (H2O). While kept == length nothing
  // was dropped and the lists are not stored. 0 before the first decode step.
  int64_t kept = 0;
  bool dropped = false;
  Buffer<int32_t> kept_tokens;
  Buffer<float> kept_scores;

  explicit CudaBranch(std::shared_ptr<KvPool> p) : Branch(PageTable(p->pages(), p->page_size())), pool(std::move(p)) {}

  // Shares the pages; device memory of the fork's own is filled when it first runs.
  CudaBranch(const CudaBranch& other)
      : Branch(other), pool(other.pool), last_logits(other.last_logits), kept(other.kept), dropped(other.dropped) {
    const auto copy = [](auto& to, const auto& from) {
      to.resize(from.size());
      if (from.size() == 0) return;
      check(cudaMemcpy(to.get(), from.get(), from.size() * sizeof(*from.get()), cudaMemcpyDeviceToDevice), "fork of kept tokens");
    };
    copy(kept_tokens, other.kept_tokens);
    copy(kept_scores, other.kept_scores);
  }
};

}  // namespace quest::cuda
