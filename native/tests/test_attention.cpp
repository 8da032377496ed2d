// Attention of every method against the naive reference, over ugly shapes, page sizes and groups; and its invariances.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>

#include "cpu/attention.h"
#include "cpu/thread_pool.h"
#include "naive_methods.h"

namespace quest::cpu {
namespace {

struct Case {
  int64_t heads, kv_heads, d, page_size, prompt;
  MethodOptions options;
};

std::string describe(const Case& c) {
  return std::string(method_info(c.options.method).name) + " heads " + std::to_string(c.heads) + "/" + std::to_string(c.kv_heads) +
         " d " + std::to_string(c.d) + " page " + std::to_string(c.page_size) + " prompt " + std::to_string(c.prompt) + " budget " +
         std::to_string(c.options.budget_tokens);
}

constexpr int64_t kSteps = 6;

// One layer's random cache and queries, written to a branch and to the reference.
class Fixture {
 public:
  explicit Fixture(const Case& c, int threads = 2)
      : c_(c), shape_{1, c.heads, c.kv_heads, c.d}, pool_(threads), kernels_(active_kernels()) {
    ModelSpec spec;
    spec.n_layers = 1;
    spec.n_heads = c.heads;
    spec.n_kv_heads = c.kv_heads;
    spec.head_dim = c.d;
    cache_ = std::make_shared<Cache>(spec, static_cast<int>(c.page_size));
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    const int64_t n = c.prompt + kSteps;
    for (auto* t : {&reference_.k, &reference_.v}) {
      t->assign(static_cast<size_t>(c.kv_heads), std::vector<std::vector<float>>(static_cast<size_t>(n), std::vector<float>(static_cast<size_t>(c.d))));
      for (auto& head : *t) {
        for (auto& token : head) {
          for (float& x : token) x = normal(random);
        }
      }
    }
    q_.resize(static_cast<size_t>(n * c.heads * c.d));
    q_sinks_.resize(q_.size());
    for (float& x : q_) x = 2 * normal(random);
    for (float& x : q_sinks_) x = 2 * normal(random);
    branch_ = std::make_shared<CpuBranch>(cache_);
  }

  CpuBranch& branch() { return *branch_; }
  naive::Cache& reference() { return reference_; }
  const float* q(int64_t position) const { return q_.data() + position * c_.heads * c_.d; }
  const float* q_sinks(int64_t position) const { return q_sinks_.data() + position * c_.heads * c_.d; }

  // Writes K, V and metadata of n tokens, as the forward pass does.
  void append(CpuBranch& b, int64_t n) {
    const int64_t base = b.length();
    if (const auto copy = b.pages.extend(n)) cache_->store.copy_page(copy->from, copy->to);
    for (int64_t t = base; t < base + n; ++t) {
      const int32_t page = b.pages.pages()[static_cast<size_t>(t / c_.page_size)];
      const int64_t offset = t % c_.page_size;
      for (int64_t h = 0; h < c_.kv_heads; ++h) {
        const auto& k = reference_.k[static_cast<size_t>(h)][static_cast<size_t>(t)];
        const auto& v = reference_.v[static_cast<size_t>(h)][static_cast<size_t>(t)];
        float* keys = cache_->store.keys(0, page, h) + offset * c_.d;
        std::copy(k.begin(), k.end(), keys);
        std::copy(v.begin(), v.end(), keys + cache_->store.value_offset());
        float* low = cache_->store.metadata(0, h, page);
        float* high = low + c_.d;
        for (int64_t i = 0; i < c_.d; ++i) {
          low[i] = offset ? std::min(low[i], k[static_cast<size_t>(i)]) : k[static_cast<size_t>(i)];
          high[i] = offset ? std::max(high[i], k[static_cast<size_t>(i)]) : k[static_cast<size_t>(i)];
        }
      }
    }
  }

  // Attention of `rows` rows whose last one is the newest token; the output was poisoned.
  // recall [rows, 1], where given.
  std::vector<float> run(CpuBranch& b, int64_t rows, bool prefill, bool column_sums = false, float* recall = nullptr) {
    std::vector<Segment> segments(1);
    Segment& s = segments[0];
    s.branch = &b;
    s.rows = rows;
    s.base = b.length() - rows;
    s.prefill = prefill;
    s.column_sums = column_sums;
    s.see.recall_top = 10;
    s.see.recall = recall;
    s.sparse.assign(static_cast<size_t>(rows), 0);
    std::vector<float> out(static_cast<size_t>(rows * c_.heads * c_.d), std::nanf(""));
    attend(pool_, kernels_, shape_, 0, segments, q(s.base), q_sinks(s.base), out.data());
    return out;
  }

 private:
  Case c_;
  AttentionShape shape_;
  ThreadPool pool_;
  const Kernels& kernels_;
  std::shared_ptr<Cache> cache_;
  naive::Cache reference_;
  std::vector<float> q_, q_sinks_;
  std::shared_ptr<CpuBranch> branch_;
};

double largest_error(const std::vector<float>& out, const naive::StepResult& want, int64_t row, int64_t heads, int64_t d) {
  double worst = 0;
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < d; ++i) {
      const double e = std::abs(out[static_cast<size_t>((row * heads + h) * d + i)] - want.out[static_cast<size_t>(h)][static_cast<size_t>(i)]);
      worst = e <= worst ? worst : e;
      if (std::isnan(e)) return INFINITY;
    }
  }
  return worst;
}

MethodOptions with(Method method, int64_t budget, GroupMode group = GroupMode::max, int64_t sinks = 4) {
  MethodOptions o;
  o.method = method;
  o.budget_tokens = budget;
  o.skip_layers = 0;
  o.group = group;
  o.sinks = sinks;
  return o;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  const std::vector<std::array<int64_t, 3>> heads = {{1, 1, 32}, {4, 4, 64}, {8, 2, 64}, {8, 1, 96}, {6, 3, 128}};
  const std::vector<int64_t> prompts = {0, 1, 15, 16, 17, 129, 511, 512, 513, 1531};
  size_t turn = 0;
  for (const auto& h : heads) {
    for (int64_t prompt : prompts) {
      // Every prompt length meets every method; page sizes and budgets rotate.
      const int64_t page = std::array<int64_t, 4>{16, 4, 32, 8}[turn++ % 4];
      const int64_t budget = std::array<int64_t, 3>{64, 100, 37}[turn % 3];
      all.push_back({h[0], h[1], h[2], page, prompt, with(Method::full, 0)});
      all.push_back({h[0], h[1], h[2], page, prompt, with(Method::quest, budget)});
      all.push_back({h[0], h[1], h[2], page, prompt, with(Method::quest, budget, GroupMode::mean)});
      all.push_back({h[0], h[1], h[2], page, prompt, with(Method::quest, page, GroupMode::head)});
      all.push_back({h[0], h[1], h[2], page, prompt, with(Method::quest_paper, budget)});
      all.push_back({h[0], h[1], h[2], page, prompt, with(Method::streaming, budget, GroupMode::max, 5)});
      all.push_back({h[0], h[1], h[2], page, prompt, with(Method::h2o, budget)});
      all.push_back({h[0], h[1], h[2], page, prompt, with(Method::tova, budget)});
      all.push_back({h[0], h[1], h[2], page, prompt, with(Method::oracle, budget)});
      all.push_back({h[0], h[1], h[2], page, prompt, with(Method::oracle, 1)});
      all.push_back({h[0], h[1], h[2], page, prompt, with(Method::oracle, budget)});
      all.back().options.oracle_pages = true;
    }
  }
  return all;
}

TEST(Attention, EveryMethodMatchesTheNaiveReference) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(describe(c));
    Fixture f(c);
    f.append(f.branch(), c.prompt);
    CpuBranch b(f.branch());
    b.method = c.options;
    naive::Layer layer({c.heads, c.kv_heads, c.d, c.page_size}, c.options);
    int64_t attended = 0;
    for (int64_t step = 0; step < kSteps; ++step) {
      f.append(b, 1);
      float recall = std::nanf("");
      const auto out = f.run(b, 1, false, false, &recall);
      const auto want = layer.step(f.reference(), b.length(), f.q(b.length() - 1), f.q_sinks(b.length() - 1));
      ASSERT_LT(largest_error(out, want, 0, c.heads, c.d), 2e-5);
      ASSERT_NEAR(recall, naive::recall({c.heads, c.kv_heads, c.d, c.page_size}, f.reference(), b.length(), f.q(b.length() - 1), want.attended, 10), 1e-6);
      for (const auto& tokens : want.attended) attended += static_cast<int64_t>(tokens.size());
    }
    EXPECT_EQ(b.counters.tokens_attended, attended);
  }
}

TEST(Attention, PrefillBlocksMatchTheNaiveReference) {
  for (int64_t prompt : {1, 2, 15, 16, 17, 63, 64, 65, 513, 700}) {
    for (const auto& h : std::vector<std::array<int64_t, 3>>{{2, 2, 32}, {8, 1, 64}, {3, 1, 128}}) {
      const Case c{h[0], h[1], h[2], 16, prompt, with(Method::full, 0)};
      SCOPED_TRACE(describe(c));
      Fixture f(c);
      f.append(f.branch(), prompt);
      const auto out = f.run(f.branch(), prompt, true);
      naive::Layer layer({c.heads, c.kv_heads, c.d, c.page_size}, c.options);
      for (int64_t row = 0; row < prompt; row += 1 + row / 3) {
        ASSERT_LT(largest_error(out, layer.step(f.reference(), row + 1, f.q(row), nullptr), row, c.heads, c.d), 2e-5);
      }
    }
  }
}

// Rows of one pass, rows one at a time, few threads, many threads: the same bits.
TEST(Attention, ParallelRowsEqualSingleStepsBitForBit) {
  for (const Case& c : cases()) {
    if (method_info(c.options.method).kind == MethodKind::evictor) continue;
    SCOPED_TRACE(describe(c));
    Fixture one(c, 1), many(c, 3);
    one.append(one.branch(), c.prompt);
    many.append(many.branch(), c.prompt);
    CpuBranch a(one.branch()), b(many.branch());
    a.method = b.method = c.options;
    many.append(b, kSteps);
    const auto together = many.run(b, kSteps, false);
    std::vector<float> apart;
    for (int64_t step = 0; step < kSteps; ++step) {
      one.append(a, 1);
      const auto out = one.run(a, 1, false);
      apart.insert(apart.end(), out.begin(), out.end());
    }
    ASSERT_EQ(together, apart);
    EXPECT_EQ(a.counters.tokens_attended, b.counters.tokens_attended);
    EXPECT_EQ(a.counters.kv_bytes, b.counters.kv_bytes);
    EXPECT_EQ(a.counters.metadata_bytes, b.counters.metadata_bytes);
  }
}

// A text scored from its first token: rows below the budget are dense, the others are not, all in one pass.
TEST(Attention, ATextFromPositionZeroInOnePassEqualsSingleSteps) {
  std::vector<MethodOptions> all = {with(Method::full, 0), with(Method::quest, 64), with(Method::quest, 33, GroupMode::mean),
                                    with(Method::quest_paper, 64), with(Method::streaming, 50), with(Method::oracle, 40),
                                    with(Method::oracle, 48)};
  all.back().oracle_pages = true;
  for (const MethodOptions& options : all) {
    for (int64_t page : {16, 4}) {
      const Case c{6, 3, 64, page, 700 - kSteps, options};
      SCOPED_TRACE(describe(c));
      Fixture one(c, 1), many(c, 3);
      CpuBranch a(one.branch()), b(many.branch());
      a.method = b.method = options;
      std::vector<float> together, apart, recall(700), recall_apart(700);
      // Pages given back in between, so that the text's pages do not lie in order.
      auto other = std::make_shared<CpuBranch>(many.branch());
      many.append(*other, 5 * page);
      for (int64_t rows : {65, 447, 188}) {
        if (b.length() > 0) other.reset();
        const int64_t base = b.length();
        many.append(b, rows);
        const auto out = many.run(b, rows, false, false, recall.data() + base);
        together.insert(together.end(), out.begin(), out.end());
      }
      naive::Layer layer({c.heads, c.kv_heads, c.d, c.page_size}, options);
      for (int64_t n = 1; n <= 700; ++n) {
        one.append(a, 1);
        const auto out = one.run(a, 1, false, false, &recall_apart[static_cast<size_t>(n - 1)]);
        apart.insert(apart.end(), out.begin(), out.end());
        if (n % 97 == 0) {
          ASSERT_LT(largest_error(out, layer.step(one.reference(), n, one.q(n - 1), one.q_sinks(n - 1)), 0, c.heads, c.d), 2e-5);
        }
      }
      ASSERT_EQ(together, apart);
      EXPECT_EQ(recall, recall_apart);
      EXPECT_EQ(a.counters.tokens_attended, b.counters.tokens_attended);
      EXPECT_EQ(a.counters.kv_bytes, b.counters.kv_bytes);
      EXPECT_EQ(a.counters.dense_kv_bytes, b.counters.dense_kv_bytes);
      EXPECT_EQ(a.counters.metadata_bytes, b.counters.metadata_bytes);
    }
  }
}

TEST(Attention, ALayerOutsideOnlyLayerIsDenseForEveryMethod) {
  for (Method m : {Method::quest, Method::quest_paper, Method::streaming, Method::h2o, Method::tova, Method::oracle}) {
    Case c{4, 2, 64, 16, 300, with(m, 40)};
    SCOPED_TRACE(describe(c));
    Fixture f(c);
    f.append(f.branch(), c.prompt);
    CpuBranch full(f.branch()), other(f.branch()), acting(f.branch());
    full.method = with(Method::full, 0);
    other.method = acting.method = c.options;
    other.method.only_layer = 1;  // the fixture is layer 0
    acting.method.only_layer = 0;
    for (CpuBranch* b : {&full, &other, &acting}) f.append(*b, 1), f.append(*b, 1);
    const auto want = f.run(full, 1, false);
    EXPECT_EQ(f.run(other, 1, false), want);
    EXPECT_EQ(other.counters.tokens_attended, other.counters.tokens_available);
    f.run(acting, 1, false);  // evictors evict after their first step
    f.append(acting, 1), f.append(full, 1);
    EXPECT_NE(f.run(acting, 1, false), f.run(full, 1, false));
  }
}

// Teeth: one token fewer is noticed, by the output and by the recall.
TEST(Attention, TheReferenceNoticesATokenThatTheOracleLeftOut) {
  const Case c{4, 2, 64, 16, 300, with(Method::oracle, 12)};
  Fixture f(c);
  f.append(f.branch(), c.prompt);
  CpuBranch b(f.branch());
  b.method = c.options;
  f.append(b, 1);
  float recall = 0;
  const auto out = f.run(b, 1, false, false, &recall);
  EXPECT_EQ(recall, 1.0f);
  MethodOptions fewer = c.options;
  fewer.budget_tokens = 8;
  naive::Layer layer({c.heads, c.kv_heads, c.d, c.page_size}, fewer);
  const auto other = layer.step(f.reference(), b.length(), f.q(b.length() - 1), nullptr);
  EXPECT_GT(largest_error(out, other, 0, c.heads, c.d), 1e-3);
  EXPECT_LT(naive::recall({c.heads, c.kv_heads, c.d, c.page_size}, f.reference(), b.length(), f.q(b.length() - 1), other.attended, 10), 0.85);
}

TEST(Attention, ABudgetThatHoldsTheContextGivesTheBitsOfFull) {
  for (Method m : {Method::quest, Method::quest_paper, Method::streaming, Method::h2o, Method::tova, Method::oracle}) {
    const Case c{8, 2, 64, 16, 601, with(m, 601 + kSteps)};
    SCOPED_TRACE(describe(c));
    Fixture f(c);
    f.append(f.branch(), c.prompt);
    CpuBranch full(f.branch()), b(f.branch());
    full.method = with(Method::full, 0);
    b.method = c.options;
    for (int64_t step = 0; step < kSteps; ++step) {
      f.append(full, 1);
      f.append(b, 1);
      ASSERT_EQ(f.run(full, 1, false), f.run(b, 1, false));
    }
    EXPECT_EQ(b.counters.tokens_attended, full.counters.tokens_attended);
    EXPECT_EQ(b.counters.kv_bytes, b.counters.dense_kv_bytes);
  }
}

TEST(Attention, H2OStartsFromThePrefillsColumnSums) {
  Case c{6, 2, 32, 16, 700, with(Method::h2o, 48)};
  c.options.h2o_prefill = true;
  Fixture f(c);
  f.branch().column_sums = std::make_shared<std::vector<std::vector<float>>>(2);
  naive::Layer layer({c.heads, c.kv_heads, c.d, c.page_size}, c.options);
  layer.prefill_sums.assign(2, naive::Vector(700, 0.0));
  // In uneven chunks, as a long prefill comes.
  for (int64_t chunk : {512, 1, 187}) {
    f.append(f.branch(), chunk);
    f.run(f.branch(), chunk, true, true);
  }
  for (int64_t row = 0; row < 700; ++row) {
    for (int64_t h = 0; h < c.heads; ++h) {
      const auto p = naive::probabilities({c.heads, c.kv_heads, c.d, c.page_size}, f.reference(), h, naive::range(0, row + 1),
                                          f.q(row) + h * c.d, nullptr, 0);
      for (size_t j = 0; j < p.size(); ++j) layer.prefill_sums[static_cast<size_t>(h / 3)][j] += p[j];
    }
  }
  for (size_t head = 0; head < 2; ++head) {
    for (size_t j = 0; j < 700; ++j) {
      ASSERT_NEAR((*f.branch().column_sums)[head][j], layer.prefill_sums[head][j], 1e-4 * (1 + layer.prefill_sums[head][j]));
    }
  }
  CpuBranch b(f.branch());
  b.method = c.options;
  for (int64_t step = 0; step < kSteps; ++step) {
    f.append(b, 1);
    const auto out = f.run(b, 1, false);
    ASSERT_LT(largest_error(out, layer.step(f.reference(), b.length(), f.q(b.length() - 1), nullptr), 0, c.heads, c.d), 2e-5);
  }
}

// Teeth: the comparison above would notice one page left out, and one token too many kept.
TEST(Attention, TheReferenceNoticesADroppedPage) {
  const Case c{4, 4, 64, 16, 300, with(Method::quest, 64)};
  Fixture f(c);
  f.append(f.branch(), c.prompt);
  CpuBranch b(f.branch());
  b.method = c.options;
  f.append(b, 1);
  const auto out = f.run(b, 1, false);
  MethodOptions fewer = c.options;
  fewer.budget_tokens = 48;
  naive::Layer layer({c.heads, c.kv_heads, c.d, c.page_size}, fewer);
  EXPECT_GT(largest_error(out, layer.step(f.reference(), b.length(), f.q(b.length() - 1), nullptr), 0, c.heads, c.d), 1e-3);
}

TEST(Attention, ForksDoNotSeeEachOthersTokens) {
  const Case c{4, 2, 64, 16, 37, with(Method::full, 0)};
  Fixture f(c);
  f.append(f.branch(), c.prompt);
  CpuBranch first(f.branch()), second(f.branch());
  f.append(first, 1);
  const auto before = f.run(first, 1, false);
  // The second fork writes other tokens to the same positions of its own copy of the open page.
  for (auto& head : f.reference().k) head[37].assign(64, 9.0f);
  f.append(second, 3);
  EXPECT_EQ(f.run(first, 1, false), before);
  EXPECT_NE(f.run(second, 1, false), before);
  EXPECT_EQ(f.branch().length(), 37);
}

}  // namespace
}  // namespace quest::cpu
