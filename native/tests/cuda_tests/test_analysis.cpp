// The kernels behind the oracle, recall and H2O's start from its prefill, against plain double-precision loops.
#include <set>

#include "core/methods.h"
#include "support.h"

namespace quest::cuda::test {

namespace {

struct AnalysisCase {
  int n, heads, kv_heads, d, page_size;
};
const AnalysisCase kCases[] = {{1, 2, 2, 32, 16}, {17, 4, 1, 64, 16}, {129, 8, 2, 96, 4}, {300, 4, 4, 128, 32}, {257, 8, 1, 64, 1}, {500, 3, 1, 128, 128}};

DecodeRow row_of(const Cache& cache, int n, int place) {
  DecodeRow row{};
  row.table = cache.device_table.get();
  row.n = n;
  row.row = place;
  row.reading = Reading::selector;
  row.skip_layers = 1;
  return row;
}

double logit(const Cache& cache, int kv_head, const double* q, int t) {
  double dot = 0;
  for (int c = 0; c < cache.d; ++c) dot += q[c] * cache.keys[cache.index(kv_head, t, c)];
  return dot / std::sqrt(cache.d);
}

}  // namespace

TEST(Analysis, TokenLogits) {
  QUEST_NEEDS_GPU();
  for (Half type : {Half::fp16, Half::bf16}) {
    for (const AnalysisCase& c : kCases) {
      Random random(static_cast<unsigned>(c.n));
      const Cache cache(random, c.n, c.kv_heads, c.d, c.page_size, type);
      const int first = std::max(1, c.n - 7), pages = cache.pages;  // two rows, the first sees fewer keys
      Array<uint16_t> q(random.halves(static_cast<size_t>(2 * c.heads * c.d), type));
      const auto qs = widen(q.host(), type);
      Array<DecodeRow> rows(std::vector<DecodeRow>{row_of(cache, first, 1), row_of(cache, c.n, 0)});
      for (bool by_page : {false, true}) {
        const int stride = c.n + 3;
        Array<float> out(static_cast<size_t>(2 * c.heads * stride));
        token_logits({rows.get(), 2, {1, c.heads, c.kv_heads, c.d, shift_of(c.page_size), c.heads, type}, q.get(), int64_t{c.heads} * c.d,
                      cache.kv.get(), out.get(), stride, c.n, by_page},
                     {});
        const auto got = out.host();
        for (int which = 0; which < 2; ++which) {
          const int n = which == 0 ? first : c.n, place = which == 0 ? 1 : 0;
          for (int h = 0; h < c.heads; ++h) {
            std::vector<double> want;
            for (int t = 0; t < n; ++t) {
              const double x = logit(cache, h / (c.heads / c.kv_heads), &qs[static_cast<size_t>((place * c.heads + h) * c.d)], t) * 1.4426950408889634;
              if (by_page && t % c.page_size != 0) {
                want.back() = std::max(want.back(), x);
              } else {
                want.push_back(x);
              }
            }
            for (size_t i = 0; i < want.size(); ++i) {
              ASSERT_NEAR(got[static_cast<size_t>((which * c.heads + h) * stride) + i], want[i], 2e-5 * (1 + std::abs(want[i]))) << c.n << " " << i << " of " << pages;
            }
          }
        }
      }
    }
  }
}

TEST(Analysis, ListAttention) {
  QUEST_NEEDS_GPU();
  for (Half type : {Half::fp16, Half::bf16}) {
    for (const AnalysisCase& c : kCases) {
      Random random(static_cast<unsigned>(c.n + 1));
      const Cache cache(random, c.n, c.kv_heads, c.d, c.page_size, type);
      Array<uint16_t> q(random.halves(static_cast<size_t>(c.heads * c.d), type));
      const auto qs = widen(q.host(), type);
      const int k = std::max(1, c.n / 3);
      std::vector<int32_t> lists;
      for (int h = 0; h < c.heads; ++h) {
        std::set<int32_t> chosen{c.n - 1};
        while (static_cast<int>(chosen.size()) < k) chosen.insert(random.below(c.n));
        lists.insert(lists.end(), chosen.begin(), chosen.end());
        lists.push_back(-1);  // beyond the list
      }
      DecodeRow row = row_of(cache, c.n, 0), dense = row;
      row.list_pages = k;
      dense.row = 1;
      dense.reading = Reading::dense;
      Array<DecodeRow> rows(std::vector<DecodeRow>{row, dense});
      lists.insert(lists.end(), lists.size(), -1);
      Array<int32_t> device_lists(lists);
      Array<uint16_t> out(static_cast<size_t>(2 * c.heads * c.d));
      list_attention({rows.get(), 2, {1, c.heads, c.kv_heads, c.d, shift_of(c.page_size), c.heads, type}, q.get(), 0, cache.kv.get(),
                      device_lists.get(), k + 1, out.get()},
                     {});
      const auto got = out.host();
      std::vector<double> mine, want, dropped;
      for (int h = 0; h < c.heads; ++h) {
        std::vector<int> tokens(lists.begin() + h * (k + 1), lists.begin() + h * (k + 1) + k);
        const auto add = attend(cache, h / (c.heads / c.kv_heads), &qs[static_cast<size_t>(h * c.d)], tokens);
        want.insert(want.end(), add.begin(), add.end());
        if (k < 2) continue;
        tokens.erase(tokens.begin());
        const auto less = attend(cache, h / (c.heads / c.kv_heads), &qs[static_cast<size_t>(h * c.d)], tokens);
        dropped.insert(dropped.end(), less.begin(), less.end());
      }
      for (size_t i = 0; i < want.size(); ++i) mine.push_back(from_half(got[i], type));
      EXPECT_LT(relative_error(mine, want), half_step(type)) << c.n;
      if (k >= 2) {
        EXPECT_GT(relative_error(mine, dropped), half_step(type)) << "a dropped token is noticed";
      }
      EXPECT_EQ(got.back(), 0xffff) << "a dense row is left alone";
    }
  }
}

TEST(Analysis, Recall) {
  QUEST_NEEDS_GPU();
  const int heads = 4, kv_heads = 2, n = 100, top = 5, page_size = 4;
  const DecodeShape shape{1, heads, kv_heads, 32, shift_of(page_size), kv_heads, Half::fp16};
  const std::vector<int32_t> tops{0, 3, 50, 98, 99, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 0, 20, 40, 60, 80};  // [head][5]
  const std::vector<int32_t> kept{3, 50, 70, 98, 0, 0, 8, 20, 60, 61, 0, 0};                              // [layer 1 only][kv head][6]
  Array<int32_t> device_tops(tops);
  std::vector<int32_t> both_layers(12, 0);
  both_layers.insert(both_layers.end(), kept.begin(), kept.end());
  Array<int32_t> kept_tokens(both_layers);
  DecodeRow row{};
  row.n = n;
  row.skip_layers = 1;
  DecodeRow tops_row = row;
  tops_row.list_pages = top;
  Array<DecodeRow> top_rows(std::vector<DecodeRow>{tops_row});
  const auto measure = [&](const DecodeRow& r, const std::vector<int32_t>& lists, int64_t stride, bool tokens) {
    Array<DecodeRow> rows(std::vector<DecodeRow>{r});
    Array<int32_t> device_lists(lists);
    Array<float> shares(heads);
    recall({rows.get(), top_rows.get(), 1, shape, device_tops.get(), top, device_lists.get(), stride, tokens, shares.get()}, {});
    return shares.host();
  };
  using Shares = std::vector<float>;
  EXPECT_EQ(measure(row, {0}, 1, false), (Shares{1, 1, 1, 1})) << "dense";
  DecodeRow pages = row;
  pages.reading = Reading::selector;
  pages.list_pages = 2;  // pages {0, 24} of the first group, {2, 15} of the second
  EXPECT_EQ(measure(pages, {0, 24, -1, 2, 15, -1}, 3, false), (Shares{0.8f, 0.6f, 0.8f, 0.2f}));
  DecodeRow tokens = pages;
  tokens.list_pages = 3;
  EXPECT_EQ(measure(tokens, {0, 3, 99, 2, 3, 4, 13, 14, 15, 20, 60, 80}, 3, true), (Shares{0.6f, 0.6f, 0, 0.6f}));
  DecodeRow window = row;
  window.reading = Reading::window;
  window.sinks = 4;
  window.window = 2;
  EXPECT_EQ(measure(window, {0}, 1, false), (Shares{0.8f, 0.6f, 0, 0.2f}));
  DecodeRow evictor = row;
  evictor.reading = Reading::evictor;
  evictor.kept = 5;  // four stored and the newest
  evictor.kept_lists = kv_heads;
  evictor.kept_stride = 6;
  evictor.kept_tokens = kept_tokens.get();
  EXPECT_EQ(measure(evictor, {0}, 1, false), (Shares{0.8f, 0.2f, 0.2f, 0.4f}));
  evictor.kept_all = 1;
  EXPECT_EQ(measure(evictor, {0}, 1, false), (Shares{1, 1, 1, 1}));
}

TEST(Analysis, ColumnSums) {
  QUEST_NEEDS_GPU();
  for (Half type : {Half::fp16, Half::bf16}) {
    for (const AnalysisCase& c : kCases) {
      if (left_out(c.n, 129)) continue;
      Random random(static_cast<unsigned>(c.n + 2));
      const Cache cache(random, c.n, c.kv_heads, c.d, c.page_size, type);
      const int group = c.heads / c.kv_heads, stride = c.n + 5;
      Array<uint16_t> q(random.halves(static_cast<size_t>(c.n * c.heads * c.d), type));
      const auto qs = widen(q.host(), type);
      Array<float> sums(static_cast<size_t>(c.kv_heads * stride)), norms(static_cast<size_t>(2 * c.n * c.heads));
      const int cut = c.n / 3;  // two passes
      for (const auto& [base, rows] : {std::pair{0, cut}, std::pair{cut, c.n - cut}}) {
        column_sums({q.get() + base * c.heads * c.d, int64_t{c.heads} * c.d, cache.kv.get(), cache.device_table.get(), norms.get(), sums.get(),
                     stride, rows, base, c.heads, c.kv_heads, c.d, c.page_size, type},
                    {});
      }
      const auto got = sums.host();
      for (int kv = 0; kv < c.kv_heads; ++kv) {
        std::vector<double> want(static_cast<size_t>(c.n), 0.0);
        for (int h = kv * group; h < (kv + 1) * group; ++h) {
          for (int i = 0; i < c.n; ++i) {
            std::vector<int> visible(static_cast<size_t>(i + 1));
            for (int t = 0; t <= i; ++t) visible[static_cast<size_t>(t)] = t;
            std::vector<double> p;
            attend(cache, kv, &qs[static_cast<size_t>((i * c.heads + h) * c.d)], visible, &p);
            for (int t = 0; t <= i; ++t) want[static_cast<size_t>(t)] += p[static_cast<size_t>(t)];
          }
        }
        for (int t = 0; t < c.n; ++t) ASSERT_NEAR(got[static_cast<size_t>(kv * stride + t)], want[static_cast<size_t>(t)], 1e-4 * (1 + want[static_cast<size_t>(t)])) << c.n << " " << t;
      }
    }
  }
}

}  // namespace quest::cuda::test
