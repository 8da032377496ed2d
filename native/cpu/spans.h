// Lists of keys as runs inside pages, cut into spans of 512, and softmax attention over one span.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/kv_store.h"

namespace quest::cpu {

constexpr int64_t kSpanTokens = 512;

// Tokens [offset, offset + count) of one physical page.
struct Run {
  int32_t page;
  int32_t offset;
  int32_t count;
  bool sink;  // scored with the query rotated for the sinks
};

class KeyList {
 public:
  void append(int32_t page, int32_t offset, int32_t count, bool sink = false);

  int64_t tokens() const { return tokens_; }
  int64_t spans() const { return (tokens_ + kSpanTokens - 1) / kSpanTokens; }
  int64_t span_tokens(int64_t span) const;
  const Run* begin(int64_t span) const { return runs_.data() + starts_[static_cast<size_t>(span)]; }
  const Run* end(int64_t span) const {
    const auto next = static_cast<size_t>(span) + 1;
    return next < starts_.size() ? runs_.data() + starts_[next] : runs_.data() + runs_.size();
  }
  int64_t pages() const { return pages_; }  // distinct pages when appended in order
  bool contains(int32_t page, int32_t offset) const;

 private:
  std::vector<Run> runs_;
  std::vector<size_t> starts_;  // first run of each span
  int64_t tokens_ = 0;
  int64_t pages_ = 0;
};

// Partial results of one list, span by span.
struct Partials {
  std::vector<float> scores;           // [spans or 1, heads, kSpanTokens]; every span's where probabilities are wanted
  std::vector<float> max, sum, value;  // [spans, heads], [spans, heads], [spans, heads, d]

  void size(int64_t spans, int64_t heads, int64_t d, bool keep_scores) {
    scores.resize(static_cast<size_t>((keep_scores ? spans : 1) * heads * kSpanTokens));
    max.resize(static_cast<size_t>(spans * heads));
    sum.resize(static_cast<size_t>(spans * heads));
    value.resize(static_cast<size_t>(spans * heads * d));
  }
};

// Running softmax state of `rows` queries: maximum, sum, weighted values.
struct Softmax {
  std::vector<float> max, sum, acc;  // [rows], [rows], [rows, d]

  void reset(int64_t rows, int64_t d);
};

// Merges a span's result into row `row` of the state. value [d].
void merge_span(Softmax& state, int64_t row, float max, float sum, const float* value, int64_t d);

// out [d] = acc / sum of one row.
void finish_row(const Softmax& state, int64_t row, int64_t d, float* out);

// Scores, exponentials and weighted values of q [rows, d] over one span of keys.
// scores [rows, kSpanTokens] receives exp(score - max); max, sum [rows]; value [rows, d].
void attend_span(const Kernels& kernels, KvStore& store, int64_t layer, int64_t kv_head, const KeyList& keys, int64_t span,
                 const float* q, const float* q_sink, int64_t rows, int64_t d, float* scores, float* max, float* sum,
                 float* value);

}  // namespace quest::cpu
