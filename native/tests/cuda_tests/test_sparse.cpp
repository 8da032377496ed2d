// The fused Quest step against the chain of kernels that it replaces, and against plain double precision.
#include <numeric>

#include "bench/cuda_cases.h"
#include "naive_kernels.h"
#include "support.h"

namespace quest::cuda::test {

namespace {

struct Options {
  bool scores_open = false, mean = false, settled = false;
};

// Three rows of one branch: two that select pages, for different queries, and between them a dense one.
struct Step {
  const SparseCase& c;
  const Cache& cache;
  Half type;
  Options o;
  int pages;
  Array<uint16_t> q;
  Array<DecodeRow> rows;
  std::vector<int32_t> lists;
  std::vector<uint16_t> out;
  int open_selected = 0;

  Step(const SparseCase& c_, const Cache& cache_, Half type_, Options o_, Random& random)
      : c(c_), cache(cache_), type(type_), o(o_), pages((c.n + c.page_size - 1) / c.page_size),
        q(random.halves(static_cast<size_t>(3 * c.heads * c.head_dim), type)), rows(3) {
    DecodeRow row{};
    row.table = cache.device_table.get();
    row.n = c.n;
    row.reading = Reading::selector;
    row.skip_layers = 2;
    row.list_pages = c.list_pages;
    row.scores_open = o.scores_open;
    row.mean = o.mean;
    DecodeRow a = row, b = row, dense = row;
    a.row = 2;
    dense.row = 0;
    dense.reading = Reading::dense;
    b.row = 1;
    rows.set({a, dense, b});
  }

  // cluster 0: the unfused chain.
  void run(int cluster) {
    const int splits = 3, list_stride = c.list_pages + 1, score_stride = pages + 3;
    const auto heads = static_cast<size_t>(c.heads), d = static_cast<size_t>(c.head_dim);
    Array<uint16_t> result(3 * heads * d);
    Array<float> partials(3 * heads * splits * (d + 2)), scores(static_cast<size_t>(3 * c.kv_heads * score_stride));
    Array<unsigned> arrivals(std::vector<unsigned>(3 * heads, 0));
    Array<int32_t> list_array(static_cast<size_t>(3 * c.kv_heads * list_stride)), open(std::vector<int32_t>{0, 0, 0});
    const DecodeShape shape{2, c.heads, c.kv_heads, c.head_dim, shift_of(c.page_size), c.kv_heads, type};
    const DecodeParams attention{rows.get(), 3, shape, q.get(), int64_t{c.heads} * c.head_dim, nullptr, cache.kv.get(), list_array.get(), list_stride,
                                 result.get(), false, splits, partials.get(), arrivals.get(), nullptr, 0, nullptr};
    sparse_attention({attention, cache.metadata.get(), cache.capacity, score_stride, cluster, o.settled, true, scores.get(), score_stride, 2,
                      list_array.get(), open.get()},
                     {});
    out = result.host();
    lists = list_array.host();
    const auto counts = open.host();
    EXPECT_EQ(counts[1], 0);
    open_selected = counts[0] + counts[2];
  }

  std::vector<double> want(bool drop_first_page = false) const {
    const auto qs = widen(q.host(), type);
    std::vector<double> all(static_cast<size_t>(3 * c.heads * c.head_dim));
    const int list_stride = c.list_pages + 1;
    for (int r = 0; r < 3; ++r) {
      const int at = r == 0 ? 2 : r == 1 ? 0 : 1;  // in q and out
      for (int h = 0; h < c.heads; ++h) {
        const int kv_head = h / (c.heads / c.kv_heads);
        std::vector<int> tokens;
        for (int i = 0; r == 1 && i < c.n; ++i) tokens.push_back(i);
        for (int i = drop_first_page; r != 1 && i < c.list_pages; ++i) {
          const int page = lists[static_cast<size_t>((r * c.kv_heads + kv_head) * list_stride + i)];
          for (int t = page * c.page_size; t < std::min(c.n, (page + 1) * c.page_size); ++t) tokens.push_back(t);
        }
        const size_t first = static_cast<size_t>(at * c.heads + h) * static_cast<size_t>(c.head_dim);
        const auto one = attend(cache, kv_head, &qs[first], tokens);
        std::copy(one.begin(), one.end(), all.begin() + static_cast<ptrdiff_t>(first));
      }
    }
    return all;
  }
};

}  // namespace

TEST(SparseAttention, FusedEqualsTheChain) {
  QUEST_NEEDS_GPU();
  for (const SparseCase& c : kSparseCases) {
    if (c.timed || left_out(c.n, 400)) continue;
    for (Half type : {Half::fp16, Half::bf16}) {
      for (const Options o : {Options{false, false, true}, Options{true, true, false}, Options{false, true, false}}) {
        Random random(static_cast<unsigned>(c.n));
        Cache cache(random, c.n, c.kv_heads, c.head_dim, c.page_size, type);
        Step step(c, cache, type, o, random);
        step.run(0);
        const auto lists = step.lists;
        const int open_selected = step.open_selected;
        const auto want = step.want();
        EXPECT_LT(relative_error(widen(step.out, type), want), half_step(type)) << "chain, " << c.n;
        for (int cluster : {1, 2, 4, 8}) {
          if (left_out(cluster, 1) && cluster != 8) continue;
          step.run(cluster);
          const auto where = [&] {
            return std::to_string(c.n) + " tokens, " + std::to_string(c.heads) + "/" + std::to_string(c.kv_heads) + " heads of " +
                   std::to_string(c.head_dim) + ", page " + std::to_string(c.page_size) + ", cluster " + std::to_string(cluster);
          };
          ASSERT_EQ(step.lists, lists) << where();
          EXPECT_EQ(step.open_selected, open_selected) << where();
          EXPECT_LT(relative_error(widen(step.out, type), want), half_step(type)) << where();
          const auto first = step.out;
          step.run(cluster);
          EXPECT_EQ(step.out, first) << where();
        }
        // Teeth: the comparison notices one page missing.
        if (c.list_pages > 1 && c.list_pages < 64) {
          EXPECT_GT(relative_error(widen(step.out, type), step.want(true)), 4 * half_step(type)) << c.n;
        }
      }
    }
  }
}

// The shapes that are timed, on numbers made on the GPU: the fused kernel, the chain and the plain kernels.
TEST(SparseAttention, WholeLayers) {
  QUEST_NEEDS_GPU();
#ifdef QUEST_EMULATE
  GTEST_SKIP() << "too large for an emulated GPU";
#endif
  for (const SparseCase& c : kSparseCases) {
    if (!c.timed || left_out(c.n, 0)) continue;
    const int pages = c.n / c.page_size, d = c.head_dim;
    const int64_t half_page = int64_t{c.page_size} * d, elements = pages * c.kv_heads * 2 * half_page, bounds = int64_t{pages} * c.kv_heads * 2 * d;
    Array<uint16_t> kv(static_cast<size_t>(elements)), metadata(static_cast<size_t>(bounds)), q(static_cast<size_t>(c.heads * d));
    fill_random({kv.get(), elements, 1, 0, false, Half::fp16, 1}, {});
    fill_random({metadata.get(), bounds, 1, 0, false, Half::fp16, 2}, {});
    sort_bounds(metadata.get(), int64_t{pages} * c.kv_heads, d);
    fill_random({q.get(), c.heads * d, 1, 0, false, Half::fp16, 3}, {});
    std::vector<int32_t> table(static_cast<size_t>(pages));
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937(5));
    Array<int32_t> device_table(table);
    DecodeRow row{};
    row.table = device_table.get();
    row.n = c.n;
    row.reading = Reading::selector;
    row.list_pages = c.list_pages;
    Array<DecodeRow> rows(std::vector<DecodeRow>{row});
    const DecodeShape shape{2, c.heads, c.kv_heads, d, shift_of(c.page_size), c.kv_heads, Half::fp16};
    const int sms = 132, splits = decode_splits(shape, 1, sms);
    Array<float> scores(static_cast<size_t>(c.kv_heads * pages)), partials(static_cast<size_t>(c.heads * splits * (d + 2)));
    Array<unsigned> arrivals(std::vector<unsigned>(static_cast<size_t>(c.heads), 0));
    const auto lists_size = static_cast<size_t>(c.kv_heads * c.list_pages);
    const auto run = [&](int cluster, std::vector<int32_t>& lists) {
      Array<uint16_t> out(static_cast<size_t>(c.heads * d));
      Array<int32_t> list_array(lists_size);
      const DecodeParams attention{rows.get(), 1, shape, q.get(), int64_t{c.heads} * d, nullptr, kv.get(), list_array.get(), c.list_pages, out.get(), false,
                                   splits, partials.get(), arrivals.get(), nullptr, 0, nullptr};
      const int blocks = estimate_blocks(shape, 1, pages, sms);
      if (cluster < 0) {
        naive_estimate({rows.get(), 1, shape, q.get(), int64_t{c.heads} * d, metadata.get(), kv.get(), pages, scores.get(), pages, blocks}, {});
        naive_top_k({rows.get(), 1, shape, scores.get(), pages, pages, list_array.get(), c.list_pages, nullptr}, {});
        naive_decode_attention(attention, {});
      } else {
        sparse_attention({attention, metadata.get(), pages, pages, cluster, true, false, scores.get(), pages, blocks, list_array.get(), nullptr}, {});
      }
      lists = list_array.host();
      return out.host();
    };
    std::vector<int32_t> plain_lists, chain_lists, fused_lists;
    const auto plain = run(-1, plain_lists), chain = run(0, chain_lists), fused = run(sparse_cluster(shape, 1, pages, c.list_pages, sms), fused_lists);
    ASSERT_EQ(chain_lists, fused_lists) << c.n;
    // Scores that agree to within rounding may change places: a few pages in all.
    int different = 0;
    for (size_t i = 0; i < lists_size; i += static_cast<size_t>(c.list_pages)) {
      std::vector<int32_t> both;
      const auto from = static_cast<ptrdiff_t>(i), to = from + c.list_pages;
      std::set_difference(plain_lists.begin() + from, plain_lists.begin() + to, fused_lists.begin() + from, fused_lists.begin() + to, std::back_inserter(both));
      different += static_cast<int>(both.size());
    }
    EXPECT_LE(different, 2) << c.n;
    const auto want = widen(plain, Half::fp16);
    const double limit = different ? 0.05 : half_step(Half::fp16);
    EXPECT_LT(relative_error(widen(chain, Half::fp16), want), limit) << c.n;
    EXPECT_LT(relative_error(widen(fused, Half::fp16), want), limit) << c.n;
  }
}

TEST(SparseAttention, ChoosesAClusterThatFillsTheGpu) {
  const DecodeShape mha{2, 32, 32, 128, 4, 32, Half::fp16}, gqa{2, 32, 8, 128, 4, 8, Half::fp16}, own{2, 32, 8, 128, 4, 32, Half::fp16};
  EXPECT_EQ(sparse_cluster(mha, 1, 2048, 128, 132), 4);
  EXPECT_EQ(sparse_cluster(mha, 2, 2048, 128, 132), 2);
  EXPECT_EQ(sparse_cluster(mha, 16, 2048, 128, 132), 1);
  EXPECT_EQ(sparse_cluster(mha, 64, 2048, 128, 132), 0);  // rows enough: one kernel after another
  EXPECT_EQ(sparse_cluster(gqa, 1, 10240, 256, 132), 8);
  EXPECT_EQ(sparse_cluster(own, 1, 2048, 128, 132), 0);
  EXPECT_EQ(sparse_cluster(mha, 1, 16384, 128, 132), 0);  // scores that shared memory does not hold
}

}  // namespace quest::cuda::test
