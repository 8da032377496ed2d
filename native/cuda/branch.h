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
  bool first_step = false;  // the step under way is the first
  Buffer<int32_t> kept_tokens;
  Buffer<float> kept_scores;
  // The lists as they were before a step that may be taken back; only while a generation runs ahead of the host.
  Buffer<int32_t> saved_tokens;
  Buffer<float> saved_scores;
  // H2O's starting scores [n_layers * n_kv_heads, max_context] of the first `summed` tokens: only while a prefill with
  // h2o_prefill collects them. Shared by forks, copied before a fork's own prefill adds to them.
  std::shared_ptr<Buffer<float>> column_sums;
  int64_t summed = 0;

  explicit CudaBranch(std::shared_ptr<KvPool> p) : Branch(PageTable(p->pages(), p->page_size())), pool(std::move(p)) {}

  // Shares the pages; device memory of the fork's own is filled when it first runs.
  CudaBranch(const CudaBranch& other)
      : Branch(other), pool(other.pool), last_logits(other.last_logits), kept(other.kept), dropped(other.dropped),
        column_sums(other.column_sums), summed(other.summed) {
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
