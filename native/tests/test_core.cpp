// Page bookkeeping, method decisions, sampling, weights: the parts that every executor shares.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>

#include "core/error.h"
#include "core/methods.h"
#include "core/paged_cache.h"
#include "core/sampler.h"
#include "core/weights.h"

namespace quest {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(PageTable, ForkSharesAndCopiesTheOpenPageOnWrite) {
  auto pool = std::make_shared<PagePool>([](int32_t) {});
  auto base = std::make_unique<PageTable>(pool, 16);
  EXPECT_FALSE(base->extend(40));
  EXPECT_EQ(base->pages(), (std::vector<int32_t>{0, 1, 2}));
  PageTable fork(*base);
  EXPECT_EQ(pool->in_use(), 3);
  const auto copy = fork.extend(1);
  ASSERT_TRUE(copy);
  EXPECT_EQ(copy->from, 2);
  EXPECT_EQ(copy->to, 3);
  EXPECT_EQ(fork.pages(), (std::vector<int32_t>{0, 1, 3}));
  EXPECT_FALSE(fork.extend(10)) << "its open page is its own now";
  EXPECT_FALSE(base->extend(1)) << "nobody shares the base's open page any more";
  base.reset();
  EXPECT_EQ(pool->in_use(), static_cast<int64_t>(fork.pages().size()));
}

TEST(PageTable, AFullLastPageNeedsNoCopy) {
  auto pool = std::make_shared<PagePool>([](int32_t) {});
  PageTable base(pool, 16);
  base.extend(32);
  PageTable fork(base);
  EXPECT_FALSE(fork.extend(1));
  EXPECT_EQ(fork.pages().size(), 3u);
}

TEST(PageTable, ShrinksToTheStateBefore) {
  const auto pool = std::make_shared<PagePool>([](int32_t) {});
  PageTable base(pool, 16);
  base.extend(32);
  EXPECT_EQ(base.pages_to_extend(1), 1);
  EXPECT_EQ(base.pages_to_extend(0), 0);
  base.extend(1);
  base.shrink(1);
  EXPECT_EQ(base.length(), 32);
  EXPECT_EQ(base.pages(), (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(pool->in_use(), 2);
  base.shrink(3);
  EXPECT_EQ(pool->in_use(), 2);
  PageTable fork(base);
  EXPECT_EQ(fork.pages_to_extend(1), 1) << "the copy of the open page";
  EXPECT_EQ(fork.pages_to_extend(4), 2);
  fork.shrink(29 - 16);
  EXPECT_EQ(pool->in_use(), 2) << "the base still holds the page that the fork gave back";
  EXPECT_EQ(base.pages_to_extend(1), 0);
}

TEST(PageTable, TheLastSharerOfAnOpenPageNeedsNoCopy) {
  const auto pool = std::make_shared<PagePool>([](int32_t) {});
  // What was said is what is then taken, whoever goes first.
  const auto extend = [&](const std::vector<std::pair<PageTable*, int64_t>>& all) {
    std::vector<PageTable::Extension> extensions;
    for (const auto& [table, n] : all) extensions.push_back({table, n});
    const int64_t said = PageTable::pages_to_extend(extensions), before = pool->in_use();
    for (const auto& [table, n] : all) table->extend(n);
    EXPECT_EQ(pool->in_use() - before, said);
    return said;
  };
  PageTable base(pool, 16), other(pool, 16);
  base.extend(20);
  other.extend(17);
  {
    PageTable a(base), b(base);
    EXPECT_EQ(extend({{&a, 1}, {&b, 1}}), 2) << "the base still has the page";
  }
  PageTable a(base), b(base), of_other(other);
  EXPECT_EQ(extend({{&a, 13}, {&other, 1}, {&base, 1}, {&of_other, 1}, {&b, 12}}), 4) << "two copies and a new page; one copy";
  PageTable c(a), d(base);
  EXPECT_EQ(extend({{&a, 1}, {&c, 0}}), 1) << "who takes no token keeps the page";
  PageTable full(pool, 16);
  full.extend(32);
  PageTable e(full);
  EXPECT_EQ(extend({{&e, 1}, {&full, 17}}), 3) << "a full page is shared for good";
  EXPECT_EQ(extend({}), 0);
}

TEST(PageTable, ARefusedPageChangesNothing) {
  auto pool = std::make_shared<PagePool>([](int32_t id) {
    if (id >= 4) throw Error("E_MEMORY", "full");
  });
  PageTable base(pool, 16);
  base.extend(40);
  PageTable fork(base);
  EXPECT_THROW(fork.extend(100), Error);
  EXPECT_EQ(fork.length(), 40);
  EXPECT_EQ(fork.pages(), base.pages());
  EXPECT_EQ(pool->in_use(), 3);
}

TEST(PagePool, ReusesTheLowestFreePage) {
  PagePool pool([](int32_t) {});
  for (int i = 0; i < 4; ++i) pool.acquire();
  pool.release(2);
  pool.release(1);
  EXPECT_EQ(pool.acquire(), 1);
  EXPECT_EQ(pool.acquire(), 2);
  EXPECT_EQ(pool.acquire(), 4);
}

TEST(Selection, TakesTheBestWithTiesToTheLowerIndexAndNanLast) {
  std::vector<int32_t> out;
  const std::vector<float> scores = {1, 3, kNan, 3, -INFINITY, 3, 2};
  select_top(scores.data(), 7, 2, out);
  EXPECT_EQ(out, (std::vector<int32_t>{1, 3}));
  select_top(scores.data(), 7, 5, out);
  EXPECT_EQ(out, (std::vector<int32_t>{0, 1, 3, 5, 6}));
  select_top(scores.data(), 7, 6, out);
  EXPECT_EQ(out, (std::vector<int32_t>{0, 1, 2, 3, 5, 6})) << "NaN ties with -inf, the lower index wins";
  select_top(scores.data(), 7, 9, out);
  EXPECT_EQ(out.size(), 7u);
  select_top(scores.data(), 7, 0, out);
  EXPECT_TRUE(out.empty());
}

TEST(Selection, QuestAlwaysAttendsTheLastPageAndThePaperScoresIt) {
  MethodOptions o;
  o.method = Method::quest;
  o.budget_tokens = 48;
  std::vector<int32_t> out;
  const std::vector<float> scores = {5, 1, 4, 3, -9};
  select_pages(o, 16, scores.data(), 5, out);
  EXPECT_EQ(out, (std::vector<int32_t>{0, 2, 4}));
  o.budget_tokens = 16;
  select_pages(o, 16, scores.data(), 5, out);
  EXPECT_EQ(out, (std::vector<int32_t>{4}));
  o.method = Method::quest_paper;
  select_pages(o, 16, scores.data(), 5, out);
  EXPECT_EQ(out, (std::vector<int32_t>{0, 2, 3})) << "never fewer than three pages";
}

TEST(Selection, TheOracleKeepsTheNewestTokenAndTheHighestLogits) {
  MethodOptions o;
  o.method = Method::oracle;
  o.budget_tokens = 4;
  std::vector<int32_t> out;
  const std::vector<float> logits = {1, kNan, 7, 3, 3, 3, -5};
  select_tokens(o, logits.data(), 7, out);
  EXPECT_EQ(out, (std::vector<int32_t>{2, 3, 4, 6})) << "of equals the lower index wins";
  o.budget_tokens = 1;
  select_tokens(o, logits.data(), 7, out);
  EXPECT_EQ(out, (std::vector<int32_t>{6}));
  EXPECT_NO_THROW(validate_method(o, 16)) << "single tokens need no page";
  o.oracle_pages = true;
  EXPECT_THROW(validate_method(o, 16), Error);
}

TEST(Methods, ActInTheirLayersOnly) {
  MethodOptions o;
  o.method = Method::quest;
  o.budget_tokens = 32;
  EXPECT_FALSE(acts_in_layer(o, 1));
  EXPECT_TRUE(acts_in_layer(o, 2));
  o.skip_layers = 0;
  o.only_layer = 3;
  EXPECT_TRUE(is_dense_step(o, 2, 100));
  EXPECT_FALSE(is_dense_step(o, 3, 100));
  EXPECT_TRUE(is_dense_step(o, 3, 32));
  EXPECT_TRUE(is_dense_step(o, 4, 100));
  EXPECT_NO_THROW(validate_method(o, 16));
  o.skip_layers = 4;
  EXPECT_THROW(validate_method(o, 16), Error) << "layer 3 is among those that stay dense";
}

TEST(Eviction, DropsTheLowestOutsideTheProtectedTail) {
  KeptSet set{{10, 11, 12, 13, 14, 15}, {5, 1, kNan, 1, 0, 0}};
  auto scores = set.accumulated;
  evict(set, scores.data(), 5, 2);
  EXPECT_EQ(set.tokens, (std::vector<int32_t>{10, 11, 13, 14, 15})) << "NaN goes first";
  scores = set.accumulated;
  evict(set, scores.data(), 4, 2);
  EXPECT_EQ(set.tokens, (std::vector<int32_t>{10, 13, 14, 15})) << "of equals the lower index goes";
  EXPECT_EQ(set.accumulated, (std::vector<float>{5, 1, 0, 0}));
  KeptSet many{{0, 1, 2, 3, 4, 5, 6, 7}, {}};
  const std::vector<float> p = {8, 1, 7, 2, 6, 3, 5, 4};
  evict(many, p.data(), 3, 0);
  EXPECT_EQ(many.tokens, (std::vector<int32_t>{0, 2, 4}));
}

TEST(Methods, SenselessOptionsAreRefusedWithTheReason) {
  MethodOptions o;
  o.method = Method::quest;
  o.budget_tokens = 15;
  EXPECT_THROW(validate_method(o, 16), Error);
  o.budget_tokens = 16;
  EXPECT_NO_THROW(validate_method(o, 16));
  o.method = Method::streaming;
  o.budget_tokens = 4;
  EXPECT_THROW(validate_method(o, 16), Error);
  o.method = Method::h2o;
  o.budget_tokens = 0;
  EXPECT_THROW(validate_method(o, 16), Error);
  EXPECT_THROW(method_from_name("qwest"), Error);
}

TEST(Sampler, GreedyTakesTheLowerOfEqualsAndIgnoresNan) {
  EXPECT_EQ(greedy(std::vector<float>{kNan, 2, 5, 5}), 2);
  EXPECT_EQ(greedy(std::vector<float>{kNan, -INFINITY}), 1);
}

TEST(Sampler, FollowsTheDistributionAndTheSeed) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  Sampler a({1.0f, 1.0f, 3}), b({1.0f, 1.0f, 3});
  std::array<int, 3> seen{};
  for (int i = 0; i < 20000; ++i) {
    const int32_t id = a.next(logits);
    ASSERT_EQ(id, b.next(logits));
    ++seen[static_cast<size_t>(id)];
  }
  EXPECT_NEAR(seen[0] / 20000.0, 0.5, 0.02);
  EXPECT_NEAR(seen[2] / 20000.0, 0.2, 0.02);
  Sampler nucleus({1.0f, 0.6f, 1});
  for (int i = 0; i < 2000; ++i) ASSERT_NE(nucleus.next(logits), 2);
}

// A one-layer model in one file, so that each lie about it can be told in turn.
ModelSpec small_spec(const std::string& path) {
  ModelSpec s;
  s.n_layers = 1, s.hidden = 8, s.n_heads = 1, s.n_kv_heads = 1, s.head_dim = 32, s.ffn = 8, s.vocab = 4, s.max_context = 64;
  s.inv_freq.assign(16, 1.0f);
  s.tied_embeddings = true;
  s.files = {path};
  uint64_t at = 1;  // unaligned on purpose
  const auto add = [&](const char* name, std::vector<int64_t> shape) {
    int64_t n = 2;
    for (int64_t d : shape) n *= d;
    s.tensors[name] = {0, at, DType::fp16, std::move(shape)};
    at += static_cast<uint64_t>(n);
  };
  add("embed", {4, 8}), add("norm", {8});
  add("layers.0.attn_norm", {8}), add("layers.0.q", {32, 8}), add("layers.0.k", {32, 8}), add("layers.0.v", {32, 8});
  add("layers.0.o", {8, 32}), add("layers.0.ffn_norm", {8}), add("layers.0.gate", {8, 8}), add("layers.0.up", {8, 8});
  add("layers.0.down", {8, 8});
  std::ofstream(path, std::ios::binary) << std::string(at, '\0');
  return s;
}

TEST(Weights, LiesAboutTheFileAreCaught) {
  const std::string path = testing::TempDir() + "quest_weights.bin";
  const ModelSpec good = small_spec(path);
  EXPECT_NO_THROW(Weights::map(good));
  ModelSpec s = good;
  s.tensors["layers.0.down"].offset += 1;
  EXPECT_THROW(Weights::map(s), Error) << "ends behind the file";
  s.tensors["layers.0.down"].offset = UINT64_MAX - 3;
  EXPECT_THROW(Weights::map(s), Error) << "offset + size overflows";
  s = good;
  s.tensors["layers.0.q"].shape = {8, 32};
  EXPECT_THROW(Weights::map(s), Error);
  s = good;
  s.tensors.erase("layers.0.up");
  EXPECT_THROW(Weights::map(s), Error);
  s = good;
  s.tensors["embed"].file = 1;
  EXPECT_THROW(Weights::map(s), Error);
  s = good;
  s.files[0] += ".not-there";
  EXPECT_THROW(Weights::map(s), Error);
  s = good;
  s.n_heads = 3, s.n_kv_heads = 2;
  EXPECT_THROW(Weights::map(s), Error);
  std::remove(path.c_str());
}

}  // namespace
}  // namespace quest
