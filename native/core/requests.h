// What every executor checks before it computes, and how fed tokens are cut into passes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "core/executor.h"

namespace quest {

// Layers whose lists are traced.
int64_t sparse_layers(const ModelSpec& spec, const MethodOptions& options);

// Each throws Error with the value seen and the value wanted.
void check_page_size(int page_size);
void check_usable(const Branch& branch);                                         // not left broken by an earlier call
void check_ids(const ModelSpec& spec, std::span<const int32_t> ids);             // inside the vocabulary
void check_room(const ModelSpec& spec, const Branch& branch, int64_t n);         // n more tokens within the model's context
void check_append(const ModelSpec& spec, const Branch& branch, std::span<const int32_t> ids);  // all three
void check_fork(const Branch& parent, const MethodOptions& options, bool has_dropped);
void check_feed(const ModelSpec& spec, std::span<const FeedRequest> requests);   // branches differ, targets fit

// H2O that starts from its prefill's attention, collected over the branch's first `collected` tokens: before a fork that
// starts from it, and before a prefill that goes on collecting.
void check_collected(const Branch& branch, int64_t collected);
void check_collecting(const Branch& branch, int64_t collected);

// Sizes the outputs that a request asked for. Throws Error for a trace of a method that selects no pages.
void size_outputs(const ModelSpec& spec, FeedRequest& request);

// Where the rows of a pass leave what somebody wants to see of their lists; null where nobody does. See FeedRequest.
struct Examined {
  int32_t* trace = nullptr;         // [rows, sparse layers, n_heads, trace_width]
  int64_t trace_width = 0;
  const int32_t* replay = nullptr;  // [rows, sparse layers, n_heads, replay_width]
  int64_t replay_width = 0;
  float* replay_gap = nullptr;      // [rows, sparse layers, n_heads]
  int64_t recall_top = 0;
  float* recall = nullptr;          // [rows, n_layers]
};

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
  const int64_t lists = cursor.done * sparse_layers(spec, r.branch->method) * spec.n_heads;  // of the steps before
  if (r.pages) {
    w.see.trace = r.pages_out.data() + lists * r.pages_width;
    w.see.trace_width = r.pages_width;
  }
  if (!r.replay.empty()) {
    w.see.replay = r.replay.data() + lists * r.replay_width;
    w.see.replay_width = r.replay_width;
    w.see.replay_gap = r.replay_gap_out.data() + lists;
  }
  if (r.recall_top > 0) {
    w.see.recall_top = r.recall_top;
    w.see.recall = r.recall_out.data() + cursor.done * spec.n_layers;
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
