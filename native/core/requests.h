// What every executor checks before it computes, and how fed tokens are cut into passes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "core/executor.h"

namespace quest {

// Each throws Error with the value seen and the value wanted.
void check_page_size(int page_size);
void check_usable(const Branch& branch);                                         // not left broken by an earlier call
void check_ids(const ModelSpec& spec, std::span<const int32_t> ids);             // inside the vocabulary
void check_room(const ModelSpec& spec, const Branch& branch, int64_t n);         // n more tokens within the model's context
void check_append(const ModelSpec& spec, const Branch& branch, std::span<const int32_t> ids);  // all three
void check_fork(const Branch& parent, const MethodOptions& options, bool has_dropped);
void check_feed(const ModelSpec& spec, std::span<const FeedRequest> requests);   // branches differ, targets fit

// Sizes the outputs that a request asked for. Throws Error for a trace of a method that selects no pages.
void size_outputs(const ModelSpec& spec, FeedRequest& request);

// How far a request has been fed.
struct Cursor {
  FeedRequest* request;
  int64_t done;
};

// The next `rows` tokens of a request as an executor's Work: the fields that all executors share.
template <typename Work, typename BranchType>
Work next_work(const ModelSpec& spec, const Cursor& cursor, int64_t rows) {
  FeedRequest& r = *cursor.request;
  const auto at = static_cast<size_t>(cursor.done), n = static_cast<size_t>(rows);
  Work w;
  w.branch = static_cast<BranchType*>(r.branch);
  w.ids = r.ids.subspan(at, n);
  w.keep_last = at + n == r.ids.size();
  if (r.logits == Logits::all) w.logits = r.logits_out.data() + cursor.done * spec.vocab;
  if (!r.targets.empty()) {
    w.targets = r.targets.subspan(at, n);
    w.nll = r.nll_out.data() + cursor.done;
  }
  if (r.pages) {
    const int64_t layers = std::max<int64_t>(0, spec.n_layers - r.branch->method.skip_layers);
    w.trace = r.pages_out.data() + cursor.done * layers * spec.n_heads * r.pages_width;
    w.trace_width = r.pages_width;
  }
  return w;
}

// Advances all cursors together, at most rows_each rows of one branch and max_rows of all in a pass: make(cursor, rows)
// gives a Work, run(works) computes them.
template <typename Work, typename Make, typename Run>
void run_passes(std::vector<Cursor>& cursors, int64_t rows_each, int64_t max_rows, Make&& make, Run&& run) {
  for (;;) {
    std::vector<Work> works;
    int64_t rows = 0;
    for (Cursor& c : cursors) {
      const int64_t left = static_cast<int64_t>(c.request->ids.size()) - c.done;
      const int64_t n = std::min({left, rows_each, max_rows - rows});
      if (n == 0) continue;
      works.push_back(make(c, n));
      c.done += n;
      rows += n;
    }
    if (rows == 0) return;
    run(works, rows);
  }
}

}  // namespace quest
