// Page scores, top-k, eviction, against the naive kernels; choices also against those of the CPU.
#include <bit>

#include "core/methods.h"
#include "naive_kernels.h"
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
      const int pages = (c.n + c.page_size - 1) / c.page_size;
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
      const auto run = [&](auto kernel) {
        Array<float> scores(static_cast<size_t>(2 * lists * (pages + 1)));
        kernel({rows.get(), 2, {1, c.heads, c.kv_heads, c.d, shift_of(c.page_size), lists, type}, q.get(), int64_t{c.heads} * c.d, cache.metadata.get(),
                cache.kv.get(), cache.capacity, scores.get(), pages + 1, 2},
               {});
        return scores.host();
      };
      const auto got = run(estimate), want = run(naive_estimate);
      const int scored = c.scores_open ? pages : pages - 1;
      for (int list = 0; list < 2 * lists; ++list) EXPECT_TRUE(std::isnan(want[static_cast<size_t>(list * (pages + 1) + scored)]));
      EXPECT_LT(difference(got, want), 1e-5) << c.n;
      // Teeth: one page whose minima are its maxima, or an open page that is a token shorter.
      if (pages < 2 || c.page_size == 1) continue;
      auto bounds = cache.metadata_host;
      for (int i = 0; i < c.d; ++i) bounds[cache.bound(0, cache.table[0], 0, i)] = bounds[cache.bound(0, cache.table[0], 1, i)];
      cache.metadata.set(bounds);
      EXPECT_GT(difference(got, run(naive_estimate)), 1e-3) << c.n;
      cache.metadata.set(cache.metadata_host);
      if (!c.scores_open || c.n % c.page_size < 2) continue;
      --row.n;
      rows.set({row, row});
      EXPECT_GT(difference(got, run(naive_estimate)), 1e-4) << c.n;
    }
  }
}

TEST(TopK, ExactlyAsTheReference) {
  QUEST_NEEDS_GPU();
  const float nan = std::nanf("");
  int cases = 0;
  for (int pages : {2, 3, 17, 128, 256, 2048, 2049, 8192, 9001}) {
    for (int k : {1, 2, 3, 16, 128, 256, 512}) {  // as many as there are: only where all are scored
      if (k > pages || left_out(pages, 2049) || left_out(k, 256)) continue;
      for (int kind = 0; kind < 7; ++kind) {
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
        // Neighbouring floats, which one bin holds beside an outlier; as many zeros as are chosen, above the next smaller numbers.
        for (int i = 0; i < lists * pages; ++i) {
          float& v = x[static_cast<size_t>(i)];
          if (kind == 5) v = i % pages == 1 ? 1e30f : std::bit_cast<float>(0x3f800000u + static_cast<uint32_t>(random.below(pages)));
          if (kind == 6) v = i % pages * 7919 % pages < k ? 0.0f : -1e-45f * static_cast<float>(1 + random.below(3));
        }
        for (bool scores_open : {false, true}) {
          if (k == pages && !scores_open) continue;
          DecodeRow row{};
          row.n = pages * 16 - 5;
          row.reading = Reading::selector;
          row.list_pages = k;
          row.scores_open = scores_open;
          Array<DecodeRow> rows(std::vector<DecodeRow>{row});
          Array<float> scores(x);
          Array<int32_t> out(static_cast<size_t>(lists * (k + 1))), open(std::vector<int32_t>{0});
          const DecodeShape shape{0, lists, lists, 128, 4, lists, Half::fp16};
          top_k({rows.get(), 1, shape, scores.get(), pages, pages, out.get(), k + 1, open.get()}, {});
          const auto got = out.host();
          if (pages <= 2049) {  // quadratic
            Array<int32_t> naive(static_cast<size_t>(lists * (k + 1))), naive_open(std::vector<int32_t>{0});
            naive_top_k({rows.get(), 1, shape, scores.get(), pages, pages, naive.get(), k + 1, naive_open.get()}, {});
            ASSERT_EQ(got, naive.host()) << pages << " pages, k " << k << ", kind " << kind;
            EXPECT_EQ(open.host(), naive_open.host());
          }
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

namespace {

// The lists of one evictor over many steps, in copies of their own: fast and naive.
struct Lists {
  Array<int32_t> tokens;
  Array<float> scores;
  explicit Lists(size_t n) : tokens(n), scores(std::vector<float>(n, 0.0f)) {}
};

struct EvictCase {
  int prompt, heads, kv_heads, budget;
  bool tova, first_scores;
};

}  // namespace

TEST(Evict, AgainstReference) {
  QUEST_NEEDS_GPU();
  for (const EvictCase& c : {EvictCase{5, 4, 2, 32, true, false}, EvictCase{5, 4, 2, 32, false, false}, EvictCase{40, 4, 2, 32, true, false},
                             EvictCase{40, 4, 2, 32, false, false}, EvictCase{700, 8, 1, 37, false, false}, EvictCase{1500, 4, 4, 32, false, true},
                             EvictCase{700, 3, 3, 1, true, false}, EvictCase{31, 4, 2, 32, false, true}, EvictCase{1025, 6, 2, 513, false, false},
                             EvictCase{1025, 6, 2, 513, true, false}}) {
    const int layers = 2, stride = c.budget + 1, lists = c.tova ? 1 : c.kv_heads;
    Random random(static_cast<unsigned>(c.prompt));
    MethodOptions o;
    o.method = c.tova ? Method::tova : Method::h2o;
    o.budget_tokens = c.budget;
    const auto entries = static_cast<size_t>(layers * lists * stride);
    Lists fast(entries), naive(entries);
    std::vector<float> starts;
    for (int i = 0; i < layers * c.kv_heads * (c.prompt + 2); ++i) starts.push_back(static_cast<float>(random.below(8)));
    Array<float> first_scores(starts);
    int kept = c.prompt, n = c.prompt;
    bool all = true, noticed = false;
    for (int step = 0; step < 40; ++step) {
      ++kept, ++n;
      // Rows of probabilities whose sums are exact in fp32, with many ties: norms of 0 and 1, or of 1 and 2.
      const int width = kept + 3;
      std::vector<float> logits, norms;
      for (int i = 0; i < c.heads * width; ++i) logits.push_back(-static_cast<float>(random.below(6)));
      for (int h = 0; h < c.heads; ++h) norms.insert(norms.end(), {static_cast<float>(h % 2), h % 2 ? 2.0f : 1.0f});
      Array<float> logit_array(logits), norm_array(norms);
      const auto run = [&](auto kernel, Lists& to) {
        DecodeRow row{};
        row.n = n;
        row.reading = Reading::evictor;
        row.skip_layers = 1;
        row.kept = kept;
        row.kept_all = all;
        row.budget = c.budget;
        row.protect = static_cast<int>(protected_tokens(o));
        row.kept_lists = lists;
        row.kept_stride = stride;
        row.kept_tokens = to.tokens.get();
        row.kept_scores = c.tova ? nullptr : to.scores.get();
        if (c.first_scores && step == 0) row.first_scores = first_scores.get(), row.first_stride = c.prompt + 2;
        DecodeRow dense = row;  // beside it a row that evicts nothing
        dense.reading = Reading::dense;
        Array<DecodeRow> rows(std::vector<DecodeRow>{dense, row});
        std::vector<float> both(static_cast<size_t>(c.heads * width), NAN), both_norms(static_cast<size_t>(2 * c.heads), NAN);
        const auto l = logit_array.host(), s = norm_array.host();
        both.insert(both.end(), l.begin(), l.end());
        both_norms.insert(both_norms.end(), s.begin(), s.end());
        Array<float> logits_of(both), norms_of(both_norms), scratch(static_cast<size_t>(2 * c.kv_heads * width));
        kernel({rows.get(), 2, {1, c.heads, c.kv_heads, 64, 4, c.kv_heads, Half::fp16}, logits_of.get(), width, norms_of.get(), scratch.get()}, {});
        check(cudaDeviceSynchronize(), "evict");
      };
      // Teeth: some probabilities of one head are higher.
      Lists wrong(entries);
      wrong.tokens.set(naive.tokens.host());
      wrong.scores.set(naive.scores.host());
      auto changed = logits;
      for (int j = 0; j < kept; j += 2) changed[static_cast<size_t>(j)] += 6;
      logit_array.set(changed);
      run(naive_evict_kept, wrong);
      logit_array.set(logits);
      run(evict_kept, fast);
      noticed = noticed || wrong.tokens.host() != fast.tokens.host() || wrong.scores.host() != fast.scores.host();
      run(naive_evict_kept, naive);
      all = all && kept <= c.budget;
      kept = std::min(kept, c.budget);
      // Between the lists' ends and in the other layer the poison stays; behind a list that shrank, whatever was there.
      const auto got = fast.tokens.host(), want = naive.tokens.host();
      const auto got_scores = fast.scores.host(), want_scores = naive.scores.host();
      for (size_t i = 0; i < entries; ++i) {
        const auto j = static_cast<int>(i) % stride;
        if (static_cast<int>(i) / stride >= lists && j >= kept && j < stride) continue;
        ASSERT_EQ(got[i], want[i]) << "prompt " << c.prompt << (c.tova ? " tova" : " h2o") << " step " << step << " at " << i;
        ASSERT_EQ(got_scores[i], want_scores[i]) << "prompt " << c.prompt << " step " << step << " at " << i;
      }
    }
    EXPECT_TRUE(noticed) << "prompt " << c.prompt << (c.tova ? " tova" : " h2o");
  }
}

}  // namespace quest::cuda::test
