#include "core/requests.h"

#include <string>

#include "core/error.h"

namespace quest {

int64_t sparse_layers(const ModelSpec& spec, const MethodOptions& o) { return std::max<int64_t>(0, spec.n_layers - o.skip_layers); }

void check_page_size(int page_size) {
  if (page_size < 1 || page_size > 128 || (page_size & (page_size - 1)) != 0) {
    throw Error("E_PAGE_SIZE", "page_size is " + std::to_string(page_size) + ", wanted a power of two from 1 to 128");
  }
}

void check_usable(const Branch& b) {
  if (b.broken) throw Error("E_BROKEN", "an earlier step of this branch was interrupted; its cache holds half a step");
}

void check_ids(const ModelSpec& spec, std::span<const int32_t> ids) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= spec.vocab) {
      throw Error("E_TOKEN_ID", "token id " + std::to_string(ids[i]) + " at index " + std::to_string(i) +
                                    " is outside the vocabulary of " + std::to_string(spec.vocab));
    }
  }
}

void check_room(const ModelSpec& spec, const Branch& b, int64_t n) {
  if (b.length() + n > spec.max_context) {
    throw Error("E_CONTEXT", std::to_string(b.length() + n) + " tokens are more than the model's context of " +
                                 std::to_string(spec.max_context));
  }
}

void check_append(const ModelSpec& spec, const Branch& b, std::span<const int32_t> ids) {
  check_usable(b);
  check_ids(spec, ids);
  check_room(spec, b, static_cast<int64_t>(ids.size()));
}

void check_fork(const Branch& parent, const MethodOptions& options, bool has_dropped) {
  check_usable(parent);
  validate_method(options, parent.pages.page_size());
  if (has_dropped && !(options == parent.method)) {
    throw Error("E_FORK", std::string("this branch has already dropped tokens by ") + method_info(parent.method.method).name +
                              " and cannot be read by another method",
                "fork the sequence that was prefilled");
  }
}

void check_feed(const ModelSpec& spec, std::span<const FeedRequest> requests) {
  for (size_t i = 0; i < requests.size(); ++i) {
    const FeedRequest& r = requests[i];
    for (size_t j = 0; j < i; ++j) {
      if (requests[j].branch == r.branch) throw Error("E_FEED", "a branch is fed twice in one call");
    }
    if (!r.targets.empty() && r.targets.size() != r.ids.size()) {
      throw Error("E_FEED", std::to_string(r.targets.size()) + " targets for " + std::to_string(r.ids.size()) + " ids");
    }
    check_ids(spec, r.targets);
    if (r.replay.empty()) continue;
    const MethodOptions& o = r.branch->method;
    if (method_info(o.method).kind != MethodKind::selector || selects_tokens(o) || o.only_layer >= 0) {
      throw Error("E_FEED", std::string(method_info(o.method).name) + " chooses no lists of pages that could be replayed");
    }
    const int64_t lists = static_cast<int64_t>(r.ids.size()) * sparse_layers(spec, o) * spec.n_heads;
    if (r.replay_width < 1 || static_cast<int64_t>(r.replay.size()) != lists * r.replay_width) {
      throw Error("E_FEED", std::to_string(r.replay.size()) + " pages to replay, wanted " + std::to_string(lists) + " lists of " +
                                std::to_string(r.replay_width));
    }
  }
}

void check_collected(const Branch& b, int64_t collected) {
  if (collected != b.length()) {
    throw Error("E_H2O_PREFILL", "h2o_prefill needs the attention of the whole prefill, which was not collected", "prefill with h2o_prefill");
  }
}

void check_collecting(const Branch& b, int64_t collected) {
  if (collected != b.length()) throw Error("E_H2O_PREFILL", "h2o_prefill must be on from the first token");
}

void size_outputs(const ModelSpec& spec, FeedRequest& r) {
  const auto n = static_cast<int64_t>(r.ids.size());
  const int64_t lists = n * sparse_layers(spec, r.branch->method) * spec.n_heads;
  r.replay_gap_out.assign(static_cast<size_t>(r.replay.empty() ? 0 : lists), 0.0f);
  r.logits_out.assign(static_cast<size_t>(r.logits == Logits::all ? n * spec.vocab : 0), 0.0f);
  r.nll_out.assign(r.targets.size(), 0.0f);
  r.recall_out.assign(static_cast<size_t>(r.recall_top > 0 ? n * spec.n_layers : 0), 0.0f);
  r.pages_out.clear();
  if (!r.pages) return;
  const MethodOptions& o = r.branch->method;
  if (o.only_layer >= 0) throw Error("E_FEED", "pages are traced of methods that act in every layer, not of one with only_layer");
  if (method_info(o.method).kind != MethodKind::selector) {
    throw Error("E_FEED", std::string(method_info(o.method).name) + " selects no pages to trace");
  }
  const int page_size = r.branch->pages.page_size();
  // Dense steps (n <= budget) can hold one page more than the budget has whole pages; a list of tokens can touch one each.
  const int64_t most = selects_tokens(o) ? o.budget_tokens
                                         : std::max(selected_pages(o, page_size), o.budget_tokens / page_size + (o.budget_tokens % page_size != 0));
  // No list is longer than the cache, however large the budget.
  r.pages_width = std::min(most, (r.branch->length() + n + page_size - 1) / page_size);
  r.pages_out.assign(static_cast<size_t>(lists * r.pages_width), -1);
}

}  // namespace quest
