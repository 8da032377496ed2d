// How a GPU's memory is divided. The backend allocates by these numbers, and `quest model info` prints them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/model_spec.h"

namespace quest::cuda {

// Elements of the buffers that every forward pass uses (cuda/forward.h has their shapes).
struct WorkspaceSizes {
  size_t x, xn, qkv, attn, gate_up, act, unpacked, logits, nll, next_ids, targets, partials, arrivals;

  size_t bytes() const;
};
WorkspaceSizes workspace_sizes(const ModelSpec& spec);

// A cache holds at most this many full contexts, even where memory would allow more.
constexpr int64_t kPoolContexts = 8;

// Of one page over all layers and KV heads.
int64_t kv_page_bytes(const ModelSpec& spec, int page_size);
int64_t metadata_page_bytes(const ModelSpec& spec);

// What stays free beside the cache, where `free_bytes` are free: scratch that grows on first use, forks' tables, evictors'
// lists, the driver's own.
int64_t reserved_bytes(int64_t free_bytes);

// Pages of a cache that takes what is free, but no more than `most_tokens` need.
int64_t pages_that_fit(const ModelSpec& spec, int page_size, int64_t free_bytes, int64_t most_tokens);

}  // namespace quest::cuda
