#include "cpu/spans.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace quest::cpu {

void KeyList::append(int32_t page, int32_t offset, int32_t count, bool sink) {
  if (count > 0 && (runs_.empty() || runs_.back().page != page)) ++pages_;
  while (count > 0) {
    const int64_t room = kSpanTokens - tokens_ % kSpanTokens;
    if (room == kSpanTokens) starts_.push_back(runs_.size());
    const auto take = static_cast<int32_t>(std::min<int64_t>(count, room));
    Run* last = runs_.empty() || room == kSpanTokens ? nullptr : &runs_.back();
    if (last && last->page == page && last->sink == sink && last->offset + last->count == offset) {
      last->count += take;
    } else {
      runs_.push_back({page, offset, take, sink});
    }
    offset += take;
    count -= take;
    tokens_ += take;
  }
}

int64_t KeyList::span_tokens(int64_t span) const { return std::min(kSpanTokens, tokens_ - span * kSpanTokens); }

bool KeyList::contains(int32_t page, int32_t offset) const {
  return std::any_of(runs_.begin(), runs_.end(),
                     [=](const Run& r) { return r.page == page && r.offset <= offset && offset < r.offset + r.count; });
}

void Softmax::reset(int64_t rows, int64_t d) {
  max.assign(static_cast<size_t>(rows), -std::numeric_limits<float>::infinity());
  sum.assign(static_cast<size_t>(rows), 0.0f);
  acc.assign(static_cast<size_t>(rows * d), 0.0f);
}

void merge_span(Softmax& state, int64_t row, float max, float sum, const float* value, int64_t d) {
  float& m = state.max[static_cast<size_t>(row)];
  float& l = state.sum[static_cast<size_t>(row)];
  float* acc = state.acc.data() + row * d;
  const float top = std::max(m, max);
  if (top == -std::numeric_limits<float>::infinity()) return;
  const float old_scale = std::exp(m - top);
  const float new_scale = std::exp(max - top);
  for (int64_t c = 0; c < d; ++c) acc[c] = acc[c] * old_scale + value[c] * new_scale;
  l = l * old_scale + sum * new_scale;
  m = top;
}

void finish_row(const Softmax& state, int64_t row, int64_t d, float* out) {
  const float inv = 1.0f / state.sum[static_cast<size_t>(row)];
  const float* acc = state.acc.data() + row * d;
  for (int64_t c = 0; c < d; ++c) out[c] = acc[c] * inv;
}

void attend_span(const Kernels& kernels, KvStore& store, int64_t layer, int64_t kv_head, const KeyList& keys, int64_t span,
                 const float* q, const float* q_sink, int64_t rows, int64_t d, float* scores, float* max, float* sum,
                 float* value) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  int64_t at = 0;
  for (const Run* r = keys.begin(span); r != keys.end(span); ++r) {
    const float* k = store.keys(layer, r->page, kv_head) + r->offset * d;
    kernels.dot_rows(r->sink ? q_sink : q, d, rows, k, d, r->count, d, scale, scores + at, kSpanTokens);
    at += r->count;
  }
  for (int64_t i = 0; i < rows; ++i) sum[i] = kernels.exp_span(scores + i * kSpanTokens, at, &max[i]);
  std::fill(value, value + rows * d, 0.0f);
  at = 0;
  for (const Run* r = keys.begin(span); r != keys.end(span); ++r) {
    const float* v = store.keys(layer, r->page, kv_head) + store.value_offset() + r->offset * d;
    kernels.axpy_rows(scores + at, kSpanTokens, rows, v, d, r->count, d, value, d);
    at += r->count;
  }
}

}  // namespace quest::cpu
