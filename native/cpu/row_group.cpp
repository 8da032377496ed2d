#include "cpu/row_group.h"

#include <algorithm>
#include <cmath>

namespace quest::cpu {

namespace {

constexpr int64_t kGroupScores = 128 * 1024;  // floats
constexpr int64_t kMostRows = 32;

// Walks the pages that any list holds, in order; f(page, lists that hold it, place of the page in each of their lists).
template <class F>
void each_shared_page(const std::vector<ListItem>& items, F&& f) {
  std::vector<size_t> next(items.size(), 0);
  std::vector<int64_t> holders, places;
  for (;;) {
    int32_t page = INT32_MAX;
    for (size_t i = 0; i < items.size(); ++i) {
      if (next[i] < items[i].pages.size()) page = std::min(page, items[i].pages[next[i]]);
    }
    if (page == INT32_MAX) return;
    holders.clear();
    places.clear();
    for (size_t i = 0; i < items.size(); ++i) {
      if (next[i] == items[i].pages.size() || items[i].pages[next[i]] != page) continue;
      holders.push_back(static_cast<int64_t>(i));
      places.push_back(static_cast<int64_t>(next[i]++));
    }
    f(page, holders, places);
  }
}

}  // namespace

int64_t group_rows(int64_t heads, int64_t list_tokens) {
  return std::clamp<int64_t>(kGroupScores / (heads * list_tokens), 4, kMostRows);
}

void attend_rows(const Kernels& kernels, int64_t layer, int64_t d, const std::vector<ListItem>& items, const float* q,
                 std::vector<Partials>& partials) {
  const CpuBranch& branch = *items[0].segment->branch;
  KvStore& store = branch.cache->store;
  const int64_t size = branch.pages.page_size(), heads = items[0].heads;
  const auto n_items = static_cast<int64_t>(items.size());
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  int64_t spans = 0;
  for (const ListItem& item : items) spans = std::max(spans, item.keys.spans());
  const int64_t width = spans * kSpanTokens;
  std::vector<float> scores(static_cast<size_t>(n_items * heads * width));  // [items, heads, width]
  std::vector<float> some_q(static_cast<size_t>(n_items * heads * d)), some_scores(static_cast<size_t>(n_items * heads * size)),
      some_values(static_cast<size_t>(n_items * heads * d));
  const auto score_at = [&](int64_t i, int64_t h, int64_t place) { return scores.data() + (i * heads + h) * width + place * size; };
  const auto keys_of = [&](int32_t page) { return store.keys(layer, branch.pages.pages()[static_cast<size_t>(page)], items[0].kv_head); };

  // The open page of a row is cut off at the row's own token, so it is read by each row for itself.
  const auto is_open = [&](int64_t i, int32_t page) { return items[static_cast<size_t>(i)].n < int64_t{page + 1} * size; };
  std::vector<int64_t> whole;  // places in `holders`
  const auto split = [&](int32_t page, const std::vector<int64_t>& holders, auto&& open) {
    whole.clear();
    for (size_t j = 0; j < holders.size(); ++j) {
      if (is_open(holders[j], page)) {
        open(j, items[static_cast<size_t>(holders[j])].n - int64_t{page} * size);
      } else {
        whole.push_back(static_cast<int64_t>(j));
      }
    }
  };

  each_shared_page(items, [&](int32_t page, const std::vector<int64_t>& holders, const std::vector<int64_t>& places) {
    const float* keys = keys_of(page);
    split(page, holders, [&](size_t j, int64_t count) {
      kernels.dot_rows(q + holders[j] * heads * d, d, heads, keys, d, count, d, scale, score_at(holders[j], 0, places[j]), width);
    });
    if (whole.empty()) return;
    const float* from = q;
    if (static_cast<int64_t>(whole.size()) < n_items) {
      for (size_t w = 0; w < whole.size(); ++w) {
        const float* own = q + holders[static_cast<size_t>(whole[w])] * heads * d;
        std::copy(own, own + heads * d, some_q.data() + static_cast<int64_t>(w) * heads * d);
      }
      from = some_q.data();
    }
    const auto rows = static_cast<int64_t>(whole.size()) * heads;
    kernels.dot_rows(from, d, rows, keys, d, size, d, scale, some_scores.data(), size);
    for (size_t w = 0; w < whole.size(); ++w) {
      const auto j = static_cast<size_t>(whole[w]);
      for (int64_t h = 0; h < heads; ++h) {
        const float* own = some_scores.data() + (static_cast<int64_t>(w) * heads + h) * size;
        std::copy(own, own + size, score_at(holders[j], h, places[j]));
      }
    }
  });

  for (int64_t i = 0; i < n_items; ++i) {
    const KeyList& keys = items[static_cast<size_t>(i)].keys;
    Partials& p = partials[static_cast<size_t>(i)];
    p.max.resize(static_cast<size_t>(keys.spans() * heads));
    p.sum.resize(p.max.size());
    p.value.assign(p.max.size() * static_cast<size_t>(d), 0.0f);
    for (int64_t span = 0; span < keys.spans(); ++span) {
      for (int64_t h = 0; h < heads; ++h) {
        const auto at = static_cast<size_t>(span * heads + h);
        p.sum[at] = kernels.exp_span(score_at(i, h, 0) + span * kSpanTokens, keys.span_tokens(span), &p.max[at]);
      }
    }
  }

  // [heads, d] of the span in which the page stands.
  const auto value_at = [&](int64_t i, int64_t place) {
    return partials[static_cast<size_t>(i)].value.data() + place * size / kSpanTokens * heads * d;
  };
  each_shared_page(items, [&](int32_t page, const std::vector<int64_t>& holders, const std::vector<int64_t>& places) {
    const float* values = keys_of(page) + store.value_offset();
    split(page, holders, [&](size_t j, int64_t count) {
      kernels.axpy_rows(score_at(holders[j], 0, places[j]), width, heads, values, d, count, d, value_at(holders[j], places[j]), d);
    });
    for (size_t w = 0; w < whole.size(); ++w) {
      const auto j = static_cast<size_t>(whole[w]);
      const float* value = value_at(holders[j], places[j]);
      std::copy(value, value + heads * d, some_values.data() + static_cast<int64_t>(w) * heads * d);
      for (int64_t h = 0; h < heads; ++h) {
        const float* own = score_at(holders[j], h, places[j]);
        std::copy(own, own + size, some_scores.data() + (static_cast<int64_t>(w) * heads + h) * size);
      }
    }
    const auto rows = static_cast<int64_t>(whole.size()) * heads;
    if (rows > 0) kernels.axpy_rows(some_scores.data(), size, rows, values, d, size, d, some_values.data(), d);
    for (size_t w = 0; w < whole.size(); ++w) {
      const auto j = static_cast<size_t>(whole[w]);
      const float* value = some_values.data() + static_cast<int64_t>(w) * heads * d;
      std::copy(value, value + heads * d, value_at(holders[j], places[j]));
    }
  });
}

}  // namespace quest::cpu
