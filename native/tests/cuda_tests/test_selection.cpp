// Page scores, top-k, eviction.
#include "core/methods.h"
#include "support.h"

namespace quest::cuda::test {

namespace {

struct EstimateCase {
  int n, heads, kv_heads, d, page_size;
  bool scores_open, mean, own_lists;
};

const EstimateCase kEstimates[] = {
    {300, 2, 2, 128, 16, false, false, false}, {301, 8, 2, 64, 16, false, false, false}, {1, 2, 1, 64, 16, true, false, false},
    {33, 8, 1, 32, 16, true, false, true},     {512, 4, 2, 128, 16, true, true, false},  {777, 8, 2, 64, 16, true, false, true},
    {257, 3, 1, 96, 4, false, true, false},    {1025, 6, 1, 64, 32, true, false, false}, {100, 2, 2, 128, 1, false, false, false},
    {2047, 32, 4, 128, 128, false, true, false},
};

}  // namespace

TEST(Estimate, AgainstReference) {
  QUEST_NEEDS_GPU();
  for (Half type : {Half::fp16, Half::bf16}) {
    for (const EstimateCase& c : kEstimates) {
      Random random(static_cast<unsigned>(c.n));
      Cache cache(random, c.n + 5, c.kv_heads, c.d, c.page_size, type);  // five later rows are in the cache already
      const int pages = (c.n + c.page_size - 1) / c.page_size, group = c.heads / c.kv_heads;
      const int lists = c.own_lists ? c.heads : c.kv_heads;
      Array<uint16_t> q(random.halves(static_cast<size_t>(2 * c.heads * c.d), type));
      DecodeRow row{};
      row.table = cache.device_table.get();
      row.n = c.n;
      row.row = 1;
      row.reading = Reading::selector;
      row.skip_layers = 1;
      row.scores_open = c.scores_open;
      row.mean = c.mean;
      Array<DecodeRow> rows(std::vector<DecodeRow>{row, row});
      Array<float> scores(static_cast<size_t>(2 * lists * (pages + 1)));
      EstimateParams p{rows.get(), 2, {1, c.heads, c.kv_heads, c.d, shift_of(c.page_size), lists, type}, q.get(), int64_t{c.heads} * c.d,
                       cache.metadata.get(), cache.kv.get(), cache.capacity, scores.get(), pages + 1, 2};
      estimate(p, {});
      const auto got = scores.host();
      const auto qs = widen(q.host(), type);
      const int scored = c.scores_open ? pages : pages - 1;
      for (int which = 0; which < 2; ++which) {
        for (int list = 0; list < lists; ++list) {
          const int kv = c.own_lists ? list / group : list;
          std::vector<double> mine, want;
          for (int page = 0; page < scored; ++page) {
            std::vector<double> by_head;
            for (int h = c.own_lists ? list : kv * group; h < (c.own_lists ? list + 1 : (kv + 1) * group); ++h) {
              double sum = 0;
              for (int i = 0; i < c.d; ++i) {
                double low = 1e30, high = -1e30;
                for (int t = page * c.page_size; t < std::min(c.n, (page + 1) * c.page_size); ++t) {
                  low = std::min(low, cache.keys[cache.index(kv, t, i)]);
                  high = std::max(high, cache.keys[cache.index(kv, t, i)]);
                }
                const double x = qs[static_cast<size_t>((c.heads + h) * c.d + i)];
                sum += std::max(x * low, x * high);
              }
              by_head.push_back(sum);
            }
            double s = *std::max_element(by_head.begin(), by_head.end());
            if (c.mean) {
              s = 0;
              for (double x : by_head) s += x / static_cast<double>(by_head.size());
            }
            want.push_back(s);
            mine.push_back(got[static_cast<size_t>((which * lists + list) * (pages + 1) + page)]);
          }
          if (scored > 0) {
            EXPECT_LT(relative_error(mine, want), 1e-5) << c.n;
          }
          EXPECT_TRUE(std::isnan(got[static_cast<size_t>((which * lists + list) * (pages + 1) + scored)]));
        }
      }
    }
  }
}

TEST(TopK, ExactlyAsTheReference) {
  QUEST_NEEDS_GPU();
  const float nan = std::nanf("");
  int cases = 0;
  for (int pages : {2, 3, 17, 128, 2048, 2049, 8192, 9001}) {
    for (int k : {1, 2, 3, 16, 128, 512}) {
      if (k >= pages || left_out(pages, 2049) || left_out(k, 128)) continue;
      for (int kind = 0; kind < 5; ++kind) {
        Random random(static_cast<unsigned>(pages * 7 + k + kind));
        const int lists = 3;
        std::vector<float> x(static_cast<size_t>(lists * pages));
        for (float& v : x) {
          v = random.normal() * 10;
          if (kind == 1) v = static_cast<float>(random.below(4)) - 1;         // many ties, zeros
          if (kind == 2 && random.below(3) == 0) v = nan;
          if (kind == 3) v = random.below(2) ? 0.0f : -0.0f;                  // all equal
          if (kind == 4) v = random.below(9) ? -INFINITY : random.below(2) ? nan : 1e-42f;
        }
        for (bool scores_open : {false, true}) {
          DecodeRow row{};
          row.n = pages * 16 - 5;
          row.reading = Reading::selector;
          row.list_pages = k;
          row.scores_open = scores_open;
          Array<DecodeRow> rows(std::vector<DecodeRow>{row});
          Array<float> scores(x);
          Array<int32_t> out(static_cast<size_t>(lists * (k + 1))), open(std::vector<int32_t>{0});
          top_k({rows.get(), 1, {0, lists, lists, 128, 4, lists, Half::fp16}, scores.get(), pages, pages, out.get(), k + 1, open.get()}, {});
          const auto got = out.host();
          int open_selected = 0;
          for (int list = 0; list < lists; ++list) {
            MethodOptions o;
            o.method = scores_open ? Method::quest_paper : Method::quest;
            o.budget_tokens = k * 16;
            std::vector<int32_t> want;
            if (scores_open) {
              select_top(x.data() + list * pages, pages, k, want);
            } else {
              select_pages(o, 16, x.data() + list * pages, pages, want);
            }
            open_selected += scores_open && want.back() == pages - 1;
            const std::vector<int32_t> mine(got.begin() + list * (k + 1), got.begin() + list * (k + 1) + k);
            ASSERT_EQ(mine, want) << pages << " pages, k " << k << ", kind " << kind << ", list " << list;
            EXPECT_EQ(got[static_cast<size_t>(list * (k + 1) + k)], -1);
          }
          EXPECT_EQ(open.host()[0], open_selected);
          ++cases;
        }
      }
    }
  }
  EXPECT_GT(cases, left_out(1, 0) ? 200 : 300);
}

TEST(Evict, AgainstReference) {
  QUEST_NEEDS_GPU();
  for (bool tova : {false, true}) {
    for (int prompt : {5, 40, 700, 1500}) {
      const int heads = 4, kv_heads = 2, budget = 32, layers = 2, stride = budget + 1;
      Random random(static_cast<unsigned>(prompt));
      MethodOptions o;
      o.method = tova ? Method::tova : Method::h2o;
      o.budget_tokens = budget;
      const int lists = tova ? 1 : kv_heads;
      std::vector<KeptSet> sets(static_cast<size_t>(lists));
      for (auto& s : sets) {
        for (int i = 0; i < prompt; ++i) s.tokens.push_back(i);
        if (!tova) s.accumulated.assign(static_cast<size_t>(prompt), 0.0f);
      }
      Array<int32_t> tokens(static_cast<size_t>(layers * lists * stride));
      Array<float> accumulated(std::vector<float>(static_cast<size_t>(layers * lists * stride), 0.0f));
      int kept = prompt, n = prompt;
      bool all = true;
      for (int step = 0; step < 40; ++step) {
        ++kept, ++n;
        const auto width = static_cast<size_t>(kept);
        // Few distinct values, so that ties are common and sums exact: norms of 0 and 1.
        std::vector<float> logits(static_cast<size_t>(heads) * width);
        for (float& x : logits) x = -static_cast<float>(random.below(6));
        Array<float> logit_array(logits), scratch(static_cast<size_t>(kv_heads) * width);
        std::vector<float> norms;
        for (int h = 0; h < heads; ++h) norms.insert(norms.end(), {0.0f, 1.0f});
        Array<float> norm_array(norms);
        DecodeRow row{};
        row.n = n;
        row.reading = Reading::evictor;
        row.skip_layers = 1;
        row.kept = kept;
        row.kept_all = all;
        row.budget = budget;
        row.protect = static_cast<int>(protected_tokens(o));
        row.kept_lists = lists;
        row.kept_stride = stride;
        row.kept_tokens = tokens.get();
        row.kept_scores = tova ? nullptr : accumulated.get();
        Array<DecodeRow> rows(std::vector<DecodeRow>{row});
        evict_kept({rows.get(), 1, {1, heads, kv_heads, 64, 4, kv_heads, Half::fp16}, logit_array.get(), kept, norm_array.get(), scratch.get()}, {});
        for (int l = 0; l < lists; ++l) {
          KeptSet& s = sets[static_cast<size_t>(l)];
          s.tokens.push_back(n - 1);
          if (!tova) s.accumulated.push_back(0);
          std::vector<float> scores(width, 0.0f);
          for (size_t j = 0; j < width; ++j) {
            if (!tova) scores[j] = s.accumulated[j];
            for (int h = 0; h < heads; ++h) {
              if (tova || h / 2 == l) scores[j] += std::exp2(logits[static_cast<size_t>(h) * width + j]);
            }
          }
          if (!tova) s.accumulated = scores;
          const auto copy = scores;
          evict(s, copy.data(), budget, protected_tokens(o));
        }
        all = all && kept <= budget;
        kept = std::min(kept, budget);
        const auto got = tokens.host();
        const auto sums = accumulated.host();
        for (int l = 0; l < lists; ++l) {
          const auto base = static_cast<size_t>((lists + l) * stride);
          for (size_t j = 0; j < static_cast<size_t>(kept); ++j) {
            if (!all) {
              ASSERT_EQ(got[base + j], sets[static_cast<size_t>(l)].tokens[j]) << "prompt " << prompt << " step " << step << " at " << j;
            }
            if (!tova) {
              ASSERT_EQ(sums[base + j], sets[static_cast<size_t>(l)].accumulated[j]);
            }
          }
        }
      }
    }
  }
}

}  // namespace quest::cuda::test
