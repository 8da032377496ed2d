// The CPU executor's branch: the cache it shares with its forks, and what its method remembers.
#pragma once

#include <memory>
#include <vector>

#include "core/executor.h"
#include "cpu/kv_store.h"

namespace quest::cpu {

// Pages of one size. All branches of a model with that page size share one.
struct Cache {
  KvStore store;
  std::shared_ptr<PagePool> pool;

  Cache(const ModelSpec& spec, int page_size)
      : store(spec.n_layers, spec.n_kv_heads, spec.head_dim, page_size),
        pool(std::make_shared<PagePool>([this](int32_t id) { store.grow(id); })) {}
};

struct CpuBranch : Branch {
  std::shared_ptr<Cache> cache;
  std::vector<float> last_logits;  // [vocab] or empty before the first token

  // Evictors: [layer][list], empty until the layer's first decode step.
  std::vector<std::vector<KeptSet>> kept;
  // H2O from the prefill: [layer * n_kv_heads + head][tokens], the prefill's attention summed over queries and the group.
  std::shared_ptr<std::vector<std::vector<float>>> column_sums;

  explicit CpuBranch(std::shared_ptr<Cache> c)
      : Branch(PageTable(c->pool, c->store.page_size())), cache(std::move(c)) {}
  CpuBranch(const CpuBranch&) = default;
};

}  // namespace quest::cpu
