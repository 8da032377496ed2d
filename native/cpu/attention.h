// Attention of the CPU executor: every method, prefill and decode, on one definition of softmax attention.
//
// Keys are taken in spans of 512 (in list order). Within a span scores, maximum, exponentials and the weighted sum of values
// are computed in one go; spans are merged in order. Prefill blocks, single decode steps, parallel scoring and page lists all
// follow this order, so that they give the same bits for the same keys. Memory is linear in the context.
#pragma once

#include <cstdint>
#include <vector>

#include "core/job.h"
#include "core/requests.h"
#include "cpu/branch.h"
#include "cpu/kernels.h"
#include "cpu/thread_pool.h"

namespace quest::cpu {

// One branch's rows of a forward pass; row i sits at position base + i and its K and V are in the cache.
struct Segment {
  CpuBranch* branch = nullptr;
  int64_t row0 = 0;  // first row in q and out
  int64_t rows = 0;
  int64_t base = 0;            // position of the first row
  bool prefill = false;        // dense, whatever the method; does not count as decode steps
  bool column_sums = false;    // prefill only: collect H2O's starting scores
  Examined see;                // of the rows
  std::vector<char> sparse;    // [rows], set when a layer attended fewer tokens than it held
};

struct AttentionShape {
  int64_t n_layers, n_heads, n_kv_heads, head_dim;
  int64_t group() const { return n_heads / n_kv_heads; }
};

// out[row, head] = attention of q[row, head] over what the row's branch and method let it see in `layer`.
// q, out [rows, n_heads * head_dim], rotated; q_sinks the same, rotated for the sinks (streaming segments only, else null).
// Updates counters and traces, and evictors' kept sets.
void attend(ThreadPool& pool, const Kernels& kernels, const AttentionShape& shape, int64_t layer,
            std::vector<Segment>& segments, const float* q, const float* q_sinks, float* out);

}  // namespace quest::cpu
