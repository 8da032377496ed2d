// The kernels behind the oracle, recall and H2O's start from its prefill, against the naive kernels.
#include <set>

#include "naive_kernels.h"
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

}  // namespace

TEST(Analysis, TokenLogits) {
  QUEST_NEEDS_GPU();
  for (Half type : {Half::fp16, Half::bf16}) {
    for (const AnalysisCase& c : kCases) {
      Random random(static_cast<unsigned>(c.n));
      const Cache cache(random, c.n, c.kv_heads, c.d, c.page_size, type);
      Array<uint16_t> q(random.halves(static_cast<size_t>(2 * c.heads * c.d), type));
      // Two rows, the first sees fewer keys.
      Array<DecodeRow> rows(std::vector<DecodeRow>{row_of(cache, std::max(1, c.n - 7), 1), row_of(cache, c.n, 0)});
      for (bool by_page : {false, true}) {
        const auto run = [&](auto kernel) {
          const int stride = c.n + 3;
          Array<float> out(static_cast<size_t>(2 * c.heads * stride));
          kernel({rows.get(), 2, {1, c.heads, c.kv_heads, c.d, shift_of(c.page_size), c.heads, type}, q.get(), int64_t{c.heads} * c.d, cache.kv.get(),
                  out.get(), stride, c.n, by_page},
                 {});
          return out.host();
        };
        const auto got = run(token_logits), want = run(naive_token_logits);
        EXPECT_LT(difference(got, want), 1e-5) << c.n;
        for (size_t i = 0; i < want.size(); ++i) {
          if (!std::isnan(want[i])) {
            ASSERT_NEAR(got[i], want[i], 2e-5 * (1 + std::abs(want[i]))) << c.n << " " << i;
          }
        }
        // Teeth: the queries of another row.
        auto others = q.host();
        std::rotate(others.begin(), others.begin() + c.heads * c.d, others.end());
        q.set(others);
        EXPECT_GT(difference(got, run(naive_token_logits)), 0.1) << c.n;
        std::rotate(others.begin(), others.begin() + c.heads * c.d, others.end());
        q.set(others);
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
      const auto run = [&](auto kernel) {
        Array<uint16_t> out(static_cast<size_t>(2 * c.heads * c.d));
        kernel({rows.get(), 2, {1, c.heads, c.kv_heads, c.d, shift_of(c.page_size), c.heads, type}, q.get(), 0, cache.kv.get(), device_lists.get(), k + 1,
                out.get()},
               {});
        return out.host();
      };
      const auto got = run(list_attention), want = run(naive_list_attention);
      EXPECT_LT(difference(got, want, type), half_step(type)) << c.n;
      EXPECT_EQ(want.back(), 0xffff) << "a dense row is left alone";
      if (k < 2) continue;
      // Teeth: each list without its last token.
      row.list_pages = k - 1;
      rows.set({row, dense});
      EXPECT_GT(difference(got, run(naive_list_attention), type), half_step(type)) << c.n;
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
    Array<float> shares(heads + 1), naive(heads + 1);
    recall({rows.get(), top_rows.get(), 1, shape, device_tops.get(), top, device_lists.get(), stride, tokens, shares.get()}, {});
    naive_recall({rows.get(), top_rows.get(), 1, shape, device_tops.get(), top, device_lists.get(), stride, tokens, naive.get()}, {});
    EXPECT_EQ(difference(shares.host(), naive.host()), 0);
    auto out = shares.host();
    out.resize(heads);
    return out;
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
      Cache cache(random, c.n, c.kv_heads, c.d, c.page_size, type);
      const int stride = c.n + 5, cut = c.n / 3;  // two passes
      Array<uint16_t> q(random.halves(static_cast<size_t>(c.n * c.heads * c.d), type));
      const auto run = [&](auto kernel, int between) {
        Array<float> sums(static_cast<size_t>(c.kv_heads * stride)), norms(static_cast<size_t>(2 * c.n * c.heads));
        for (const auto& [base, rows] : {std::pair{0, between}, std::pair{between, c.n - between}}) {
          kernel({q.get() + base * c.heads * c.d, int64_t{c.heads} * c.d, cache.kv.get(), cache.device_table.get(), norms.get(), sums.get(), stride, rows, base,
                  c.heads, c.kv_heads, c.d, c.page_size, type},
                 {});
        }
        return sums.host();
      };
      const auto got = run(column_sums, cut), want = run(naive_column_sums, cut);
      EXPECT_LT(difference(got, want), 2e-5) << c.n;
      EXPECT_LT(difference(got, run(naive_column_sums, c.n)), 2e-5) << c.n << " at once";
      for (size_t i = 0; i < want.size(); ++i) {
        if (!std::isnan(want[i])) {
          ASSERT_NEAR(got[i], want[i], 1e-4 * (1 + want[i])) << c.n << " " << i;
        }
      }
      if (c.n < 3) continue;
      // Teeth: one row's queries are another's; one key looks the other way.
      auto others = q.host();
      std::copy_n(others.begin(), c.heads * c.d, others.begin() + (c.n - 1) * c.heads * c.d);
      const auto queries = q.host();
      q.set(others);
      EXPECT_GT(difference(got, run(naive_column_sums, cut)), 1e-4) << c.n;
      q.set(queries);
      auto storage = cache.kv.host();
      for (int i = 0; i < c.d; ++i) storage[cache.at(cache.table[0], 0, 0, 0, i)] ^= 0x8000;
      cache.kv.set(storage);
      EXPECT_GT(difference(got, run(naive_column_sums, cut)), 1e-3) << c.n;
    }
  }
}

}  // namespace quest::cuda::test
