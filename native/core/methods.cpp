#include "core/methods.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace quest {

namespace {

constexpr std::array<MethodInfo, 7> kMethods{{
    {Method::full, "full", MethodKind::dense},
    {Method::quest, "quest", MethodKind::selector},
    {Method::quest_paper, "quest-paper", MethodKind::selector},
    {Method::streaming, "streaming", MethodKind::window},
    {Method::h2o, "h2o", MethodKind::evictor},
    {Method::tova, "tova", MethodKind::evictor},
    {Method::oracle, "oracle", MethodKind::selector},
}};

constexpr int64_t kPaperMinimumPages = 3;

float finite_order(float s) { return std::isnan(s) ? -std::numeric_limits<float>::infinity() : s; }

}  // namespace

const MethodInfo& method_info(Method method) { return kMethods[static_cast<size_t>(method)]; }

Method method_from_name(const std::string& name) {
  std::string names;
  for (const MethodInfo& m : kMethods) {
    if (name == m.name) return m.method;
    names += (names.empty() ? "" : ", ") + std::string(m.name);
  }
  throw Error("E_METHOD", "there is no method \"" + name + "\"; the methods are " + names);
}

GroupMode group_from_name(const std::string& name) {
  if (name == "max") return GroupMode::max;
  if (name == "mean") return GroupMode::mean;
  if (name == "head") return GroupMode::head;
  throw Error("E_METHOD_OPTIONS", "group is \"" + name + "\", wanted max, mean or head");
}

void validate_method(const MethodOptions& o, int page_size) {
  const auto fail = [](const std::string& message, const std::string& hint) {
    throw Error("E_METHOD_OPTIONS", message, hint);
  };
  if (o.skip_layers < 0) fail("skip_layers is " + std::to_string(o.skip_layers), "0 or more layers can stay dense");
  if (o.only_layer >= 0 && o.only_layer < o.skip_layers) {
    fail("only_layer is " + std::to_string(o.only_layer) + ", one of the " + std::to_string(o.skip_layers) + " layers that stay dense",
         "lower skip_layers");
  }
  const MethodKind kind = method_info(o.method).kind;
  if (kind == MethodKind::dense) return;
  const std::string budget = "a budget of " + std::to_string(o.budget_tokens) + " tokens";
  if (o.budget_tokens < 1) fail(budget + " keeps nothing", "budgets count tokens and start at 1");
  if (kind == MethodKind::selector && !selects_tokens(o) && o.budget_tokens < page_size) {
    fail(budget + " is below one page of " + std::to_string(page_size), "raise the budget or lower the page size");
  }
  if (kind == MethodKind::window && (o.sinks < 0 || o.budget_tokens <= o.sinks)) {
    fail(budget + " leaves no recent window beside " + std::to_string(o.sinks) + " sinks", "raise the budget or lower the sinks");
  }
}

bool acts_in_layer(const MethodOptions& o, int64_t layer) {
  return o.method != Method::full && layer >= o.skip_layers && (o.only_layer < 0 || layer == o.only_layer);
}

bool is_dense_step(const MethodOptions& o, int64_t layer, int64_t n) {
  return !acts_in_layer(o, layer) || n <= o.budget_tokens;
}

bool lists_per_head(const MethodOptions& o) {
  return o.method == Method::quest_paper || o.method == Method::oracle || o.group == GroupMode::head;
}

bool selects_tokens(const MethodOptions& o) { return o.method == Method::oracle && !o.oracle_pages; }

int64_t selected_pages(const MethodOptions& o, int page_size) {
  const int64_t least = o.method == Method::quest_paper ? kPaperMinimumPages : 1;
  return std::max(least, o.budget_tokens / page_size);
}

bool scores_open_page(Method method) { return method == Method::quest_paper; }

void select_top(const float* scores, int64_t n, int64_t k, std::vector<int32_t>& out) {
  out.resize(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) out[static_cast<size_t>(i)] = static_cast<int32_t>(i);
  if (k >= n) return;
  const auto better = [scores](int32_t a, int32_t b) {
    const float sa = finite_order(scores[a]), sb = finite_order(scores[b]);
    return sa != sb ? sa > sb : a < b;
  };
  if (k > 0) std::nth_element(out.begin(), out.begin() + (k - 1), out.end(), better);
  out.resize(static_cast<size_t>(std::max<int64_t>(k, 0)));
  std::sort(out.begin(), out.end());
}

void select_pages(const MethodOptions& o, int page_size, const float* scores, int64_t n_pages, std::vector<int32_t>& out) {
  const int64_t k = selected_pages(o, page_size);
  if (scores_open_page(o.method) || k >= n_pages) {
    select_top(scores, n_pages, k, out);
    return;
  }
  select_top(scores, n_pages - 1, k - 1, out);
  out.push_back(static_cast<int32_t>(n_pages - 1));
}

void select_tokens(const MethodOptions& o, const float* logits, int64_t n, std::vector<int32_t>& out) {
  select_top(logits, n - 1, o.budget_tokens - 1, out);
  out.push_back(static_cast<int32_t>(n - 1));
}

int64_t kept_sets_per_layer(Method method, int64_t n_kv_heads) { return method == Method::h2o ? n_kv_heads : 1; }

int64_t protected_tokens(const MethodOptions& o) {
  return o.method == Method::h2o ? o.budget_tokens - o.budget_tokens / 2 : 0;
}

void evict(KeptSet& set, const float* scores, int64_t budget, int64_t protect) {
  const auto kept = static_cast<int64_t>(set.tokens.size());
  const int64_t drop = kept - budget;
  if (drop <= 0) return;
  const auto candidates = static_cast<size_t>(kept - protect);
  const auto worse = [scores](int32_t a, int32_t b) {
    const float sa = finite_order(scores[a]), sb = finite_order(scores[b]);
    return sa != sb ? sa < sb : a < b;
  };
  std::vector<char> gone(static_cast<size_t>(kept), 0);
  if (drop == 1) {
    int32_t lowest = 0;
    for (size_t i = 1; i < candidates; ++i) {
      if (worse(static_cast<int32_t>(i), lowest)) lowest = static_cast<int32_t>(i);
    }
    gone[static_cast<size_t>(lowest)] = 1;
  } else {
    std::vector<int32_t> order(candidates);
    for (size_t i = 0; i < candidates; ++i) order[i] = static_cast<int32_t>(i);
    std::nth_element(order.begin(), order.begin() + (drop - 1), order.end(), worse);
    for (int64_t i = 0; i < drop; ++i) gone[static_cast<size_t>(order[static_cast<size_t>(i)])] = 1;
  }
  size_t to = 0;
  for (size_t i = 0; i < gone.size(); ++i) {
    if (gone[i]) continue;
    set.tokens[to] = set.tokens[i];
    if (!set.accumulated.empty()) set.accumulated[to] = set.accumulated[i];
    ++to;
  }
  set.tokens.resize(to);
  if (!set.accumulated.empty()) set.accumulated.resize(to);
  // The first eviction of a long prompt frees most of the list; give that back.
  if (drop > 1) {
    set.tokens.shrink_to_fit();
    set.accumulated.shrink_to_fit();
  }
}

}  // namespace quest
