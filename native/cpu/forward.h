// One pass of tokens through the network, for any mix of branches: prefill chunks, decode steps, parallel scoring.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/job.h"
#include "core/weights.h"
#include "cpu/attention.h"
#include "cpu/int4.h"

namespace quest::cpu {

constexpr int64_t kMaxRows = 512;  // rows of one pass: activations stay small, matrix products stay large

// Tokens of one branch in a pass.
struct Work {
  CpuBranch* branch = nullptr;
  std::span<const int32_t> ids;
  bool prefill = false;
  bool column_sums = false;
  Examined see;  // of the ids

  float* logits = nullptr;           // [ids, vocab] or null
  std::span<const int32_t> targets;  // [ids] or empty
  float* nll = nullptr;              // [ids], with targets
  bool keep_last = false;            // leave the last row's logits in the branch
};

class Forward {
 public:
  Forward(const ModelSpec& spec, const Weights& weights, const Kernels& kernels, ThreadPool& pool);

  // Appends every work's ids to its branch. Branches must differ; at most kMaxRows rows in all; evictors one row each.
  // When it throws, the branches of the pass are left broken.
  void run(std::span<Work> works, const JobControl& job);

  // Of the weights in memory, 4-bit ones as they were reshuffled.
  int64_t weight_bytes() const { return weights_.bytes() + int4_.extra_bytes(); }

 private:
  struct Rows;
  void embed(std::span<Work> works);
  void append_kv(int64_t layer, const std::vector<Segment>& segments);
  void add_bias(int64_t layer);
  void rope(const std::vector<Segment>& segments);
  void logits(std::span<Work> works, const std::vector<Segment>& segments);
  void norm_rows(const float* x, const Tensor& weight, int64_t rows, float* out);
  float negative_log_likelihood(const float* logits, int32_t target) const;

  const ModelSpec& spec_;
  const Weights& weights_;
  const Kernels& kernels_;
  ThreadPool& pool_;
  Int4Weights int4_;
  AttentionShape shape_;

  std::vector<std::vector<float>> bias_;  // per layer: of queries, keys, values; empty where the model has none

  int64_t rows_ = 0;
  // [rows, ...] each: residual stream, its norm, projections, attention output, feed-forward, rope tables.
  std::vector<float> x_, xn_, q_, q_sinks_, k_, v_, attn_, gate_, up_, cos_, sin_;
};

}  // namespace quest::cpu
