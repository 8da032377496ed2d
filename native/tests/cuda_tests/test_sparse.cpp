// The fused Quest step against the chain of kernels that it replaces, and against the naive kernels.
#include <numeric>

#include "bench/cuda_cases.h"
#include "cuda/executor.h"
#include "cuda/pass.h"
#include "naive_kernels.h"
#include "random_model.h"
#include "support.h"

namespace quest::cuda::test {

namespace {

struct Options {
  bool scores_open = false, mean = false, settled = false;
};

constexpr SparsePlan kChain{};  // one kernel after another
const SparsePlan kPlans[] = {{1, 3}, {2, 2}, {5, 4}, {8, 3}};
std::string name_of(const SparsePlan& plan) { return std::to_string(plan.blocks) + " blocks, " + std::to_string(plan.slots) + " slots"; }
// Runs f(board) with a board for the plan, and sees that it is left as it was.
template <class F>
void with_board(const DecodeShape& shape, int n_rows, int64_t pages, const SparsePlan& plan, F&& f) {
  Array<uint32_t> board(std::vector<uint32_t>(static_cast<size_t>(std::max<int64_t>(1, sparse_board_words(shape, n_rows, pages, plan))), 0xffffffffu));
  f(board.get());
  for (uint32_t word : board.host()) ASSERT_EQ(word, 0xffffffffu) << name_of(plan);
}

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

  void run(const SparsePlan& plan) {
    const int splits = 3, list_stride = c.list_pages + 1, score_stride = pages + 3;
    const auto heads = static_cast<size_t>(c.heads), d = static_cast<size_t>(c.head_dim);
    Array<uint16_t> result(3 * heads * d);
    Array<float> partials(3 * heads * splits * (d + 2)), scores(static_cast<size_t>(3 * c.kv_heads * score_stride));
    Array<unsigned> arrivals(std::vector<unsigned>(3 * heads, 0));
    Array<int32_t> list_array(static_cast<size_t>(3 * c.kv_heads * list_stride)), open(std::vector<int32_t>{0, 0, 0});
    const DecodeShape shape{2, c.heads, c.kv_heads, c.head_dim, shift_of(c.page_size), c.kv_heads, type};
    const DecodeParams attention{rows.get(), 3, shape, q.get(), int64_t{c.heads} * c.head_dim, nullptr, cache.kv.get(), list_array.get(), list_stride,
                                 result.get(), false, splits, partials.get(), arrivals.get(), nullptr, 0, nullptr};
    with_board(shape, 3, score_stride, plan, [&](uint32_t* board) {
      sparse_attention({attention, cache.metadata.get(), cache.capacity, score_stride, plan, board, o.settled, true, scores.get(), score_stride, 2,
                        list_array.get(), open.get()},
                       {});
    });
    out = result.host();
    lists = list_array.host();
    const auto counts = open.host();
    EXPECT_EQ(counts[1], 0);
    open_selected = counts[0] + counts[2];
  }

  // By definition, over the lists chosen; without their first pages.
  std::vector<uint16_t> want(bool drop_first_page = false) const {
    const DecodeShape shape{2, c.heads, c.kv_heads, c.head_dim, shift_of(c.page_size), c.kv_heads, type};
    Array<uint16_t> result(static_cast<size_t>(3 * c.heads * c.head_dim));
    Array<int32_t> list_array(lists);
    auto some = rows.host();
    for (DecodeRow& row : some) row.list_pages -= drop_first_page;
    Array<DecodeRow> fewer(some);
    naive_decode_attention({fewer.get(), 3, shape, q.get(), int64_t{c.heads} * c.head_dim, nullptr, cache.kv.get(), list_array.get() + drop_first_page,
                            c.list_pages + 1, result.get(), false, 0, nullptr, nullptr, nullptr, 0, nullptr},
                           {});
    return result.host();
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
        step.run(kChain);
        const auto lists = step.lists;
        const int open_selected = step.open_selected;
        const auto want = step.want();
        EXPECT_LT(difference(step.out, want, type), half_step(type)) << "chain, " << c.n;
        for (const SparsePlan& plan : kPlans) {
          if (left_out(plan.blocks, 1) && plan.blocks != 5) continue;
          step.run(plan);
          const auto where = [&] {
            return std::to_string(c.n) + " tokens, " + std::to_string(c.heads) + "/" + std::to_string(c.kv_heads) + " heads of " +
                   std::to_string(c.head_dim) + ", page " + std::to_string(c.page_size) + ", " + name_of(plan);
          };
          ASSERT_EQ(step.lists, lists) << where();
          EXPECT_EQ(step.open_selected, open_selected) << where();
          EXPECT_LT(difference(step.out, want, type), half_step(type)) << where();
          const auto first = step.out;
          step.run(plan);
          EXPECT_EQ(step.out, first) << where();
        }
        // Teeth: the comparison notices one page missing.
        if (c.list_pages > 1 && c.list_pages < 64) {
          EXPECT_GT(difference(step.out, step.want(true), type), 4 * half_step(type)) << c.n;
        }
      }
    }
  }
}

// A step that appends its tokens itself, against rope_append and the step after it: the same bits everywhere. Two branches, the
// second a fork of the first: all pages shared but the open one, in which it has another length.
TEST(SparseAttention, AppendsLikeRopeAppend) {
  QUEST_NEEDS_GPU();
  // The first, the last and other places of a page; groups of 1, 4, 7 and 8.
  for (const SparseCase& c : {SparseCase{161, 1, 1, 128, 16, 4, false}, SparseCase{176, 4, 1, 64, 16, 5, false}, SparseCase{330, 8, 1, 128, 16, 7, false},
                              SparseCase{97, 8, 2, 64, 16, 3, false}, SparseCase{104, 16, 2, 128, 8, 6, false}, SparseCase{40, 2, 2, 64, 1, 9, false},
                              SparseCase{515, 4, 4, 128, 128, 2, false}, SparseCase{67, 7, 1, 64, 4, 5, false}, SparseCase{352, 4, 1, 128, 16, 1, false}}) {
    for (Half type : {Half::fp16, Half::bf16}) {
      for (bool biased : {false, true}) {
        Random random(static_cast<unsigned>(c.n));
        Cache cache(random, c.n, c.kv_heads, c.head_dim, c.page_size, type);
        const int d = c.head_dim, width = (c.heads + 2 * c.kv_heads) * d, full = (cache.pages - 1) * c.page_size;
        const int lengths[2] = {c.n, full + 1 + (c.n - full) % c.page_size};
        std::vector<int32_t> forked = cache.table;
        for (int32_t spare = 0; forked.back() == cache.table.back(); ++spare) {
          if (std::find(cache.table.begin(), cache.table.end(), spare) == cache.table.end()) forked.back() = spare;
        }
        Array<int32_t> fork_table(forked);
        const int32_t pages[2] = {cache.table.back(), forked.back()};

        // Both open pages as they are before the step: poison from the newest token on, and in the bounds of a page without tokens.
        const auto original = cache.kv.host();
        auto kv_before = original;
        auto bounds_before = cache.metadata_host;
        for (int b = 0; b < 2; ++b) {
          for (int h = 0; h < c.kv_heads; ++h) {
            for (int i = 0; i < d; ++i) {
              uint16_t &low = bounds_before[cache.bound(h, pages[b], 0, i)], &high = bounds_before[cache.bound(h, pages[b], 1, i)];
              low = high = 0xffff;
              for (int t = 0; t < c.page_size; ++t) {
                const bool old = full + t < lengths[b] - 1;
                for (int which : {0, 1}) kv_before[cache.at(pages[b], h, which, t, i)] = old ? original[cache.at(pages[0], h, which, t, i)] : 0xffff;
                if (!old) continue;
                const uint16_t key = original[cache.at(pages[0], h, 0, t, i)];
                if (t == 0 || from_half(key, type) < from_half(low, type)) low = key;
                if (t == 0 || from_half(key, type) > from_half(high, type)) high = key;
              }
            }
          }
        }
        const auto input = random.halves(static_cast<size_t>(2 * width), type);
        std::vector<float> frequencies;
        for (int i = 0; i < d / 2; ++i) frequencies.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(d)));
        Array<float> inv_freq(frequencies), bias(random.floats(static_cast<size_t>(width), 2));
        DecodeRow first{}, second{};
        first.table = cache.device_table.get();
        first.n = lengths[0];
        first.row = 1;
        first.reading = Reading::selector;
        first.list_pages = c.list_pages;
        second = first;
        second.table = fork_table.get();
        second.n = lengths[1];
        second.row = 0;
        Array<DecodeRow> rows(std::vector<DecodeRow>{first, second});
        Array<AppendTask> tasks(std::vector<AppendTask>{{1, 1, lengths[0] - 1, pages[0], -1}, {0, 1, lengths[1] - 1, pages[1], -1}});

        struct After {
          std::vector<uint16_t> out, kv, metadata, qkv;
          std::vector<int32_t> lists;
        };
        const auto run = [&](const SparsePlan& plan, bool fused) {
          const int splits = 2, score_stride = cache.pages;
          const auto heads = static_cast<size_t>(2 * c.heads);
          cache.kv.set(kv_before);
          cache.metadata.set(bounds_before);
          Array<uint16_t> qkv(input), out(heads * static_cast<size_t>(d));
          Array<float> partials(heads * splits * static_cast<size_t>(d + 2)), scores(static_cast<size_t>(2 * c.kv_heads * score_stride));
          Array<unsigned> arrivals(std::vector<unsigned>(heads, 0));
          Array<int32_t> lists(static_cast<size_t>(2 * c.kv_heads * c.list_pages));
          const AppendParams append{tasks.get(), 2, qkv.get(), nullptr, cache.kv.get(), cache.metadata.get(), inv_freq.get(), 1.25f,
                                    biased ? bias.get() : nullptr, c.heads, c.kv_heads, d, c.page_size, cache.capacity, type};
          const DecodeShape shape{2, c.heads, c.kv_heads, d, shift_of(c.page_size), c.kv_heads, type};
          const DecodeParams attention{rows.get(), 2, shape, qkv.get(), width, nullptr, cache.kv.get(), lists.get(), c.list_pages,
                                       out.get(), false, splits, partials.get(), arrivals.get(), nullptr, 0, nullptr};
          if (!fused) rope_append(append, {});
          with_board(shape, 2, score_stride, plan, [&](uint32_t* board) {
            sparse_attention({attention, cache.metadata.get(), cache.capacity, score_stride, plan, board, true, false, scores.get(), score_stride, 2,
                              lists.get(), nullptr, fused ? append : AppendParams{}},
                             {});
          });
          return After{out.host(), cache.kv.host(), cache.metadata.host(), qkv.host(), lists.host()};
        };
        for (const SparsePlan& plan : {kChain, kPlans[0], kPlans[1], kPlans[2], kPlans[3]}) {
          const std::string where = std::to_string(c.n) + " tokens, " + std::to_string(c.heads) + "/" + std::to_string(c.kv_heads) + " heads of " +
                                    std::to_string(d) + ", page " + std::to_string(c.page_size) + (biased ? ", bias" : "") + ", " + name_of(plan);
          const After want = run(plan, false), got = run(plan, true);
          ASSERT_EQ(got.kv, want.kv) << where;
          ASSERT_EQ(got.metadata, want.metadata) << where;
          ASSERT_EQ(got.lists, want.lists) << where;
          ASSERT_EQ(got.out, want.out) << where;
          // One kernel leaves the projection alone: blocks that start late must find it as it was.
          EXPECT_EQ(got.qkv, plan.blocks > 0 ? input : want.qkv) << where;
          // Nothing was read before it was there, and what was compared is what the step writes.
          for (double x : widen(got.out, type)) ASSERT_TRUE(std::isfinite(x)) << where;
          for (int b = 0; b < 2; ++b) {
            for (int which : {0, 1}) {
              const size_t newest = cache.at(pages[b], c.kv_heads - 1, which, lengths[b] - 1 - full, d - 1);
              EXPECT_EQ(kv_before[newest], 0xffff) << where;
              EXPECT_NE(got.kv[newest], 0xffff) << where;
            }
          }
        }
      }
    }
  }
}

// Which passes leave the append to the sparse kernel, and that a model's logits do not depend on it: recall needs the rotated
// queries in memory, so that a measured step takes the other way.
TEST(SparseAttention, StepsAppendWhereEveryRowSelects) {
  QUEST_NEEDS_GPU();
  const RandomModel model({4, 2, 64, true, false});
  const auto executor = make_cuda_executor(model.spec, 0);
  const JobControl job;
  std::vector<int32_t> ids;
  for (int i = 0; i < 90; ++i) ids.push_back(i * 37 % 80);
  const std::span<const int32_t> all(ids);
  const auto base = executor->create(16);
  executor->prefill(*base, all.subspan(0, 60), false, job);
  MethodOptions quest, paper;
  quest.method = Method::quest;
  quest.budget_tokens = 32;
  quest.skip_layers = 0;
  paper = quest;
  paper.method = Method::quest_paper;

  const auto logits = [&](int64_t recall_top) {
    const auto one = executor->fork(*base, quest), two = executor->fork(*base, quest);
    std::vector<float> out;
    for (size_t at = 60; at < all.size(); ++at) {
      FeedRequest requests[2];
      for (int i = 0; i < 2; ++i) {
        requests[i].branch = i == 0 ? one.get() : two.get();
        requests[i].ids = all.subspan(i == 0 ? at : all.size() - 1 - (at - 60), 1);
        requests[i].logits = Logits::all;
        requests[i].recall_top = recall_top;
      }
      executor->feed(requests, job);
      for (const FeedRequest& r : requests) out.insert(out.end(), r.logits_out.begin(), r.logits_out.end());
    }
    return out;
  };
  EXPECT_EQ(logits(0), logits(5));

  // Of a pass over the last tokens that the branches hold: whether each of its layers appends.
  struct Row {
    const MethodOptions& method;
    size_t rows;
    bool recall;
  };
  const auto appends = [&](const std::vector<Row>& list) {
    std::vector<std::shared_ptr<Branch>> branches;
    std::vector<Work> works(list.size());
    std::vector<int64_t> bases;
    std::vector<float> recall(16);
    for (size_t i = 0; i < list.size(); ++i) {
      branches.push_back(executor->fork(*base, list[i].method));
      works[i].branch = static_cast<CudaBranch*>(branches[i].get());
      works[i].ids = all.subspan(60 - list[i].rows, list[i].rows);
      if (list[i].recall) works[i].see.recall = recall.data(), works[i].see.recall_top = 5;
      bases.push_back(60 - static_cast<int64_t>(list[i].rows));
    }
    std::vector<bool> layers;
    for (const LayerPlan& plan : plan_pass(model.spec, works, bases).layers) {
      bool some = false;
      for (const RowGroup& g : plan.groups) some = some || g.appends;
      layers.insert(layers.end(), static_cast<size_t>(plan.end - plan.begin), some);
    }
    return layers;
  };
  MethodOptions full, later = quest, roomy = quest;
  later.skip_layers = 1;
  roomy.budget_tokens = 64;
  const std::vector<bool> both{true, true}, none{false, false}, second{false, true};
  EXPECT_EQ(appends({{quest, 1, false}}), both);
  EXPECT_EQ(appends({{quest, 1, false}, {quest, 1, false}}), both);
  EXPECT_EQ(appends({{later, 1, false}}), second);
  EXPECT_EQ(appends({{quest, 2, false}}), none);                      // the second row sees a page that the first wrote
  EXPECT_EQ(appends({{quest, 1, false}, {full, 1, false}}), none);    // another row reads everything
  EXPECT_EQ(appends({{quest, 1, false}, {later, 1, false}}), second);
  EXPECT_EQ(appends({{paper, 1, false}}), none);                      // the open page is scored
  EXPECT_EQ(appends({{roomy, 1, false}}), none);                      // everything fits
  EXPECT_EQ(appends({{quest, 1, true}}), none);                       // recall
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
    const auto run = [&](const SparsePlan* plan, std::vector<int32_t>& lists) {
      Array<uint16_t> out(static_cast<size_t>(c.heads * d));
      Array<int32_t> list_array(lists_size);
      const DecodeParams attention{rows.get(), 1, shape, q.get(), int64_t{c.heads} * d, nullptr, kv.get(), list_array.get(), c.list_pages, out.get(), false,
                                   splits, partials.get(), arrivals.get(), nullptr, 0, nullptr};
      const int blocks = estimate_blocks(shape, 1, pages, sms);
      if (!plan) {
        naive_estimate({rows.get(), 1, shape, q.get(), int64_t{c.heads} * d, metadata.get(), kv.get(), pages, scores.get(), pages, blocks}, {});
        naive_top_k({rows.get(), 1, shape, scores.get(), pages, pages, list_array.get(), c.list_pages, nullptr}, {});
        naive_decode_attention(attention, {});
      } else {
        with_board(shape, 1, pages, *plan, [&](uint32_t* board) {
          sparse_attention({attention, metadata.get(), pages, pages, *plan, board, true, false, scores.get(), pages, blocks, list_array.get(), nullptr}, {});
        });
      }
      lists = list_array.host();
      return out.host();
    };
    std::vector<int32_t> plain_lists, chain_lists, fused_lists;
    const SparsePlan best = sparse_plan(shape, 1, pages, c.list_pages, sms);
    const auto plain = run(nullptr, plain_lists), chain = run(&kChain, chain_lists), fused = run(&best, fused_lists);
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
    const double limit = different ? 0.05 : half_step(Half::fp16);
    EXPECT_LT(difference(chain, plain, Half::fp16), limit) << c.n;
    EXPECT_LT(difference(fused, plain, Half::fp16), limit) << c.n;
  }
}

TEST(SparseAttention, PlansFillTheGpu) {
  QUEST_NEEDS_GPU();
  if (shared_limit() < 227 * 1024) GTEST_SKIP() << "the sizes below are those of sm_90";
  const DecodeShape mha{2, 32, 32, 128, 4, 32, Half::fp16}, gqa{2, 32, 8, 128, 4, 8, Half::fp16}, own{2, 32, 8, 128, 4, 32, Half::fp16};
  const auto blocks = [](const DecodeShape& shape, int n_rows, int64_t max_pages, int64_t list_pages) {
    const SparsePlan plan = sparse_plan(shape, n_rows, max_pages, list_pages, 132);
    return plan.blocks * n_rows * shape.n_kv_heads;
  };
  EXPECT_EQ(blocks(mha, 1, 2048, 128), 128);
  EXPECT_EQ(blocks(mha, 2, 2048, 128), 128);
  EXPECT_EQ(blocks(mha, 16, 2048, 128), 512);
  EXPECT_EQ(blocks(mha, 64, 2048, 128), 0);  // rows enough: one kernel after another
  EXPECT_EQ(blocks(gqa, 1, 10240, 256), 128);
  EXPECT_EQ(blocks(own, 1, 2048, 128), 0);
  EXPECT_EQ(blocks(mha, 1, 65536, 128), 0);  // scores that shared memory does not hold
}

}  // namespace quest::cuda::test
