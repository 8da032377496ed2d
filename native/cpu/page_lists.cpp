#include "cpu/page_lists.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <string>

namespace quest::cpu {

namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// One score per page from the scores of the heads that share the list, in place of the first head's.
void combine_heads(ListItem& item, GroupMode group, int64_t pages) {
  float* s = item.page_scores.data();
  for (int64_t p = 0; p < pages; ++p) {
    float best = kMinusInfinity, total = 0;
    for (int64_t h = 0; h < item.heads; ++h) {
      float v = s[h * pages + p];
      if (std::isnan(v)) v = kMinusInfinity;
      best = std::max(best, v);
      total += v;
    }
    s[p] = group == GroupMode::mean ? total / static_cast<float>(item.heads) : best;
  }
}

void trace_pages(const AttentionShape& shape, int64_t layer, const ListItem& item, const std::vector<int32_t>& pages,
                 bool open_page_first) {
  const Segment& seg = *item.segment;
  const int64_t skip = std::min(seg.branch->method.skip_layers, shape.n_layers);
  if (!seg.see.trace || layer < skip) return;
  const int64_t step = item.row * (shape.n_layers - skip) + (layer - skip);
  for (int64_t h = item.head0; h < item.head0 + item.heads; ++h) {
    int32_t* out = seg.see.trace + (step * shape.n_heads + h) * seg.see.trace_width;
    const auto width = static_cast<size_t>(seg.see.trace_width);
    size_t at = 0;
    if (open_page_first && at < width) out[at++] = pages.back();
    for (size_t i = 0; i + (open_page_first ? 1 : 0) < pages.size() && at < width; ++i) out[at++] = pages[i];
  }
}

// Takes the list that is replayed, and says by how much a page left out outscored one chosen.
void replay_pages(const AttentionShape& shape, int64_t layer, ListItem& item, int64_t n_pages) {
  const Segment& seg = *item.segment;
  const MethodOptions& o = seg.branch->method;
  const int64_t skip = std::min(o.skip_layers, shape.n_layers);
  const int64_t at = (item.row * (shape.n_layers - skip) + (layer - skip)) * shape.n_heads + item.head0;
  const int32_t* from = seg.see.replay + at * seg.see.replay_width;
  item.pages.clear();
  std::copy_if(from, from + seg.see.replay_width, std::back_inserter(item.pages), [](int32_t p) { return p >= 0; });
  std::sort(item.pages.begin(), item.pages.end());
  if (item.pages.empty() || item.pages.back() >= n_pages || std::adjacent_find(item.pages.begin(), item.pages.end()) != item.pages.end()) {
    throw Error("E_FEED", "a list to replay is empty, repeats a page or names one of " + std::to_string(n_pages) + " that is not there");
  }
  const int64_t scored = scores_open_page(o.method) ? n_pages : n_pages - 1;
  float worst = std::numeric_limits<float>::infinity(), best_out = kMinusInfinity, largest = 0;
  auto next = item.pages.begin();
  for (int64_t p = 0; p < scored; ++p) {
    const float s = item.page_scores[static_cast<size_t>(p)];
    largest = std::max(largest, std::abs(s));
    if (next != item.pages.end() && *next == p) {
      worst = std::min(worst, s);
      ++next;
    } else {
      best_out = std::max(best_out, s);
    }
  }
  const float gap = best_out > worst ? (best_out - worst) / largest : 0.0f;
  for (int64_t h = 0; h < item.heads; ++h) seg.see.replay_gap[at + h] = gap;
}

void append_tokens(ListItem& item, int64_t from, int64_t to, bool sink = false) {
  const PageTable& table = item.segment->branch->pages;
  const int64_t size = table.page_size();
  while (from < to) {
    const int64_t page = from / size, offset = from % size;
    const int64_t count = std::min(size - offset, to - from);
    item.keys.append(table.pages()[static_cast<size_t>(page)], static_cast<int32_t>(offset), static_cast<int32_t>(count), sink);
    from += count;
  }
}

// Ascending tokens as runs.
void append_token_list(ListItem& item, const std::vector<int32_t>& tokens) {
  for (size_t i = 0; i < tokens.size();) {
    size_t j = i + 1;
    while (j < tokens.size() && tokens[j] == tokens[j - 1] + 1) ++j;
    append_tokens(item, tokens[i], int64_t{tokens[j - 1]} + 1);
    i = j;
  }
}

// Calls f(first token, page's keys, tokens) for every page of the row's cache.
template <class F>
void each_page(const ListItem& item, int64_t layer, int64_t p0, int64_t p1, F&& f) {
  CpuBranch& branch = *item.segment->branch;
  const int64_t size = branch.pages.page_size();
  for (int64_t p = p0; p < p1; ++p) {
    f(p * size, branch.cache->store.keys(layer, branch.pages.pages()[static_cast<size_t>(p)], item.kv_head),
      std::min(size, item.n - p * size));
  }
}

// The oracle's scores: true logits, of every token or the highest of each page.
void score_by_logits(const Kernels& kernels, int64_t layer, int64_t d, ListItem& item, const float* q, int64_t p0, int64_t p1) {
  const bool tokens = selects_tokens(item.segment->branch->method);
  const int64_t size = item.segment->branch->pages.page_size();
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  std::vector<float> logits(static_cast<size_t>(size));
  each_page(item, layer, p0, p1, [&](int64_t at, const float* keys, int64_t count) {
    float* out = tokens ? item.page_scores.data() + at : logits.data();
    kernels.dot_rows(q, d, 1, keys, d, count, d, scale, out, size);
    if (tokens) return;
    float best = kMinusInfinity;
    for (int64_t j = 0; j < count; ++j) best = out[j] > best ? out[j] : best;  // NaN never is
    item.page_scores[static_cast<size_t>(at / size)] = best;
  });
}

void list_selected(const AttentionShape& shape, int64_t layer, ListItem& item) {
  const CpuBranch& branch = *item.segment->branch;
  const int page_size = branch.pages.page_size();
  const int64_t n_pages = (item.n + page_size - 1) / page_size;
  if (selects_tokens(branch.method)) {
    std::vector<int32_t> tokens, seen;
    select_tokens(branch.method, item.page_scores.data(), item.n, tokens);
    append_token_list(item, tokens);
    if (!item.segment->see.trace) return;
    for (int32_t t : tokens) {
      if (seen.empty() || seen.back() != t / page_size) seen.push_back(t / page_size);
    }
    trace_pages(shape, layer, item, seen, true);
    return;
  }
  const bool scores_open = scores_open_page(branch.method.method);
  if (item.heads > 1) combine_heads(item, branch.method.group, n_pages);
  if (item.segment->see.replay && item.scored_pages > 0) {
    replay_pages(shape, layer, item, n_pages);
  } else {
    select_pages(branch.method, page_size, item.page_scores.data(), n_pages, item.pages);
  }
  trace_pages(shape, layer, item, item.pages, !scores_open);
  for (int32_t p : item.pages) append_tokens(item, int64_t{p} * page_size, std::min<int64_t>(item.n, int64_t{p + 1} * page_size));
}

}  // namespace

Reading reading_of(const MethodOptions& o, int64_t layer, int64_t n) {
  const MethodKind kind = method_info(o.method).kind;
  // An evictor keeps its statistics while the cache is still within the budget, and reads everything then.
  if (kind == MethodKind::evictor && acts_in_layer(o, layer)) return Reading::evictor;
  if (is_dense_step(o, layer, n)) return Reading::dense;
  return kind == MethodKind::selector ? Reading::selector : Reading::window;
}

int64_t pages_to_score(const ListItem& item) {
  const CpuBranch& branch = *item.segment->branch;
  const int64_t n_pages = (item.n + branch.pages.page_size() - 1) / branch.pages.page_size();
  if (selects_tokens(branch.method)) return n_pages;
  if (selected_pages(branch.method, branch.pages.page_size()) >= n_pages) return 0;
  return scores_open_page(branch.method.method) ? n_pages : n_pages - 1;
}

int64_t score_slots(const ListItem& item) {
  const CpuBranch& branch = *item.segment->branch;
  if (selects_tokens(branch.method)) return item.n;
  return item.heads * ((item.n + branch.pages.page_size() - 1) / branch.pages.page_size());
}

void score_pages(const Kernels& kernels, int64_t layer, int64_t d, ListItem& item, const float* q, int64_t p0, int64_t p1) {
  CpuBranch& branch = *item.segment->branch;
  if (branch.method.method == Method::oracle) {
    score_by_logits(kernels, layer, d, item, q, p0, p1);
    return;
  }
  KvStore& store = branch.cache->store;
  const auto& ids = branch.pages.pages();
  const int64_t size = branch.pages.page_size();
  const int64_t n_pages = (item.n + size - 1) / size;
  const int64_t full = item.n / size;  // pages whose metadata are final at this row
  float* out = item.page_scores.data();
  int64_t p = p0;
  while (p < std::min(p1, full)) {
    const int32_t id = ids[static_cast<size_t>(p)];
    const int64_t most = std::min(std::min(p1, full) - p, store.metadata_run(id));
    int64_t run = 1;
    while (run < most && ids[static_cast<size_t>(p + run)] == id + run) ++run;
    kernels.page_scores(q, d, item.heads, store.metadata(layer, item.kv_head, id), 2 * d, run, d, out + p, n_pages);
    p += run;
  }
  if (p < p1) {
    // The open page: bounds over the keys up to this row only, since later rows of a chunk are already in the cache.
    const float* k = store.keys(layer, ids[static_cast<size_t>(p)], item.kv_head);
    std::vector<float> bounds(static_cast<size_t>(2 * d));
    for (int64_t c = 0; c < d; ++c) {
      float low = k[c], high = k[c];
      for (int64_t j = 1; j < item.n - p * size; ++j) {
        low = std::min(low, k[j * d + c]);
        high = std::max(high, k[j * d + c]);
      }
      bounds[static_cast<size_t>(c)] = low;
      bounds[static_cast<size_t>(d + c)] = high;
    }
    kernels.page_scores(q, d, item.heads, bounds.data(), 2 * d, 1, d, out + p, n_pages);
  }
}

void list_keys(const AttentionShape& shape, int64_t layer, ListItem& item) {
  const CpuBranch& branch = *item.segment->branch;
  const MethodOptions& o = branch.method;
  switch (item.segment->prefill ? Reading::dense : reading_of(o, layer, item.n)) {
    case Reading::dense:
      append_tokens(item, 0, item.n);
      if (item.segment->see.trace) {
        const int page_size = branch.pages.page_size();
        std::vector<int32_t> all(static_cast<size_t>((item.n + page_size - 1) / page_size));
        for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
        trace_pages(shape, layer, item, all, !scores_open_page(o.method));
      }
      break;
    case Reading::selector:
      list_selected(shape, layer, item);
      break;
    case Reading::window:
      append_tokens(item, 0, o.sinks, true);
      append_tokens(item, item.n - (o.budget_tokens - o.sinks), item.n);
      break;
    case Reading::evictor: {
      const auto& sets = branch.kept[static_cast<size_t>(layer)];
      append_token_list(item, sets[sets.size() == 1 ? 0 : static_cast<size_t>(item.kv_head)].tokens);
      break;
    }
  }
}

float recalled(const Kernels& kernels, int64_t layer, int64_t d, const ListItem& item, const float* q, int64_t top) {
  const CpuBranch& branch = *item.segment->branch;
  const int64_t size = branch.pages.page_size(), n = item.n;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  std::vector<float> logits(static_cast<size_t>(item.heads * n));
  each_page(item, layer, 0, (n + size - 1) / size, [&](int64_t at, const float* keys, int64_t count) {
    kernels.dot_rows(q, d, item.heads, keys, d, count, d, scale, logits.data() + at, n);
  });
  float total = 0;
  std::vector<int32_t> best;
  for (int64_t h = 0; h < item.heads; ++h) {
    select_top(logits.data() + h * n, n, top, best);
    const auto found = std::count_if(best.begin(), best.end(), [&](int32_t t) {
      return item.keys.contains(branch.pages.pages()[static_cast<size_t>(t / size)], static_cast<int32_t>(t % size));
    });
    total += static_cast<float>(found) / static_cast<float>(best.size());
  }
  return total;
}

void count_token_in(const AttentionShape& shape, int64_t layer, CpuBranch& branch, int64_t n) {
  if (branch.kept.empty()) branch.kept.resize(static_cast<size_t>(shape.n_layers));
  auto& sets = branch.kept[static_cast<size_t>(layer)];
  const bool accumulates = branch.method.method == Method::h2o;
  if (sets.empty()) {
    sets.resize(static_cast<size_t>(kept_sets_per_layer(branch.method.method, shape.n_kv_heads)));
    for (size_t s = 0; s < sets.size(); ++s) {
      sets[s].tokens.resize(static_cast<size_t>(n - 1));
      for (int64_t i = 0; i < n - 1; ++i) sets[s].tokens[static_cast<size_t>(i)] = static_cast<int32_t>(i);
      if (!accumulates) continue;
      if (branch.method.h2o_prefill) {
        sets[s].accumulated = (*branch.column_sums)[static_cast<size_t>(layer * shape.n_kv_heads) + s];
      }
      sets[s].accumulated.resize(static_cast<size_t>(n - 1), 0.0f);
    }
  }
  for (KeptSet& set : sets) {
    set.tokens.push_back(static_cast<int32_t>(n - 1));
    if (accumulates) set.accumulated.push_back(0.0f);
  }
}

void evict_after(const AttentionShape& shape, int64_t layer, CpuBranch& branch,
                 const std::vector<std::vector<float>>& probabilities) {
  const MethodOptions& o = branch.method;
  auto& sets = branch.kept[static_cast<size_t>(layer)];
  if (o.method == Method::h2o) {
    for (size_t s = 0; s < sets.size(); ++s) {
      auto& a = sets[s].accumulated;
      for (size_t j = 0; j < a.size(); ++j) a[j] += probabilities[s][j];
      // evict() compacts `accumulated`, so it must not read the scores from it.
      const std::vector<float> scores = a;
      evict(sets[s], scores.data(), o.budget_tokens, protected_tokens(o));
    }
    return;
  }
  std::vector<float> total = probabilities[0];
  for (int64_t g = 1; g < shape.n_kv_heads; ++g) {
    for (size_t j = 0; j < total.size(); ++j) total[j] += probabilities[static_cast<size_t>(g)][j];
  }
  evict(sets[0], total.data(), o.budget_tokens, protected_tokens(o));
}

}  // namespace quest::cpu
