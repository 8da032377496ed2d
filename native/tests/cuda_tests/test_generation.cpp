// Generation that runs ahead of the host against generation step by step, bit for bit: tokens, counters, caches and what
// follows, for each kind of method, with a stop id in the middle and after a cancellation.
#include "cuda/branch.h"
#include "cuda/executor.h"
#include "cuda/kv_pool.h"
#include "random_model.h"

namespace quest::cuda::test {

namespace {

const auto kNobody = [](int64_t, int32_t) {};

MethodOptions method(Method m, int64_t budget) {
  MethodOptions o;
  o.method = m;
  o.budget_tokens = budget;
  o.skip_layers = 0;
  if (m == Method::streaming) o.sinks = 4;
  return o;
}

// Every kind of method; with lists that are full, that fill up on the way, and that never do.
std::vector<MethodOptions> methods() {
  std::vector<MethodOptions> all{{}};
#ifdef QUEST_EMULATE
  for (int64_t budget : {40}) {
#else
  for (int64_t budget : {16, 40, 120}) {
#endif
    for (Method m : {Method::quest, Method::quest_paper, Method::streaming, Method::h2o, Method::tova}) all.push_back(method(m, budget));
  }
  MethodOptions oracle = method(Method::oracle, 32);
  oracle.oracle_pages = true;
  all.push_back(oracle);
  return all;
}

std::string name_of(const MethodOptions& o) { return std::string(method_info(o.method).name) + " " + std::to_string(o.budget_tokens); }

struct Prefilled {
  RandomModel model{{4, 2, 64, false, false}};
  std::unique_ptr<Executor> executor = make_cuda_executor(model.spec, 0);
  std::shared_ptr<Branch> base = executor->create(8);
  JobControl job;

  // 37 tokens: the open page is shared by all forks and copied when they write.
  Prefilled() {
    std::vector<int32_t> ids;
    for (int i = 0; i < 37; ++i) ids.push_back(i * 53 % 80);
    executor->prefill(*base, ids, false, job);
  }
  std::shared_ptr<CudaBranch> fork(const MethodOptions& o) { return std::static_pointer_cast<CudaBranch>(executor->fork(*base, o)); }

  std::vector<int32_t> generate(CudaBranch& branch, int64_t max_tokens, std::vector<int32_t> stop_ids = {}) {
    Branch* b = &branch;
    return executor->generate({&b, 1}, {max_tokens, std::move(stop_ids), {}}, kNobody, job)[0];
  }

  // Two tokens a call leave nothing to run ahead to; the second is the next call's first.
  std::vector<int32_t> step_by_step(CudaBranch& branch, int64_t steps) {
    std::vector<int32_t> out;
    for (int64_t i = 0; i < steps; ++i) {
      const auto two = generate(branch, 2);
      if (i == 0) out.push_back(two[0]);
      EXPECT_EQ(out.back(), two[0]);
      out.push_back(two[1]);
    }
    return out;
  }
};

template <class T>
std::vector<T> download(const T* from, size_t n) {
  std::vector<T> v(n);
  check(cudaDeviceSynchronize(), "synchronize");
  if (n) check(cudaMemcpy(v.data(), from, n * sizeof(T), cudaMemcpyDeviceToHost), "download");
  return v;
}

// Bits of the tokens' keys and values, and of the pages' bounds, in the branch's own order.
std::vector<uint16_t> cache_of(const ModelSpec& spec, const CudaBranch& b) {
  std::vector<uint16_t> out;
  const auto d = static_cast<size_t>(spec.head_dim), size = static_cast<size_t>(b.pages.page_size()), heads = static_cast<size_t>(spec.n_kv_heads);
  for (int64_t l = 0; l < spec.n_layers; ++l) {
    const auto kv = download(static_cast<const uint16_t*>(b.pool->kv(l)), static_cast<size_t>(b.pool->kv_stride()));
    const auto bounds = download(static_cast<const uint16_t*>(b.pool->metadata(l)), static_cast<size_t>(b.pool->metadata_stride()));
    for (size_t h = 0; h < heads; ++h) {
      for (size_t t = 0; t < static_cast<size_t>(b.length()); ++t) {
        const auto page = static_cast<size_t>(b.pages.pages()[t / size]);
        const auto key = kv.begin() + static_cast<std::ptrdiff_t>(((page * heads + h) * 2 * size + t % size) * d);
        out.insert(out.end(), key, key + static_cast<std::ptrdiff_t>(d));
        const auto value = key + static_cast<std::ptrdiff_t>(size * d);
        out.insert(out.end(), value, value + static_cast<std::ptrdiff_t>(d));
        if (t % size != 0) continue;
        const auto low = bounds.begin() + static_cast<std::ptrdiff_t>((h * static_cast<size_t>(b.pool->capacity()) + page) * 2 * d);
        out.insert(out.end(), low, low + static_cast<std::ptrdiff_t>(2 * d));
      }
    }
  }
  return out;
}

void expect_same(const ModelSpec& spec, const CudaBranch& got, const CudaBranch& want, const std::string& what) {
  EXPECT_EQ(got.length(), want.length()) << what;
  EXPECT_EQ(got.pages.pages().size(), want.pages.pages().size()) << what;
  EXPECT_FALSE(got.broken) << what;
  EXPECT_EQ(got.kept, want.kept) << what;
  EXPECT_EQ(got.dropped, want.dropped) << what;
  EXPECT_EQ(got.last_logits, want.last_logits) << what;
  EXPECT_EQ(std::memcmp(&got.counters, &want.counters, sizeof(Counters)), 0) << what;
  EXPECT_TRUE(cache_of(spec, got) == cache_of(spec, want)) << what;
  if (!want.dropped) return;
  const int64_t sets = kept_sets_per_layer(want.method.method, spec.n_kv_heads), stride = want.method.budget_tokens + 1;
  const auto lists = [&](const auto& buffer) {
    auto all = download(buffer.get(), buffer.size());
    std::remove_reference_t<decltype(all)> kept;
    if (all.empty()) return kept;
    for (int64_t i = 0; i < spec.n_layers * sets; ++i) kept.insert(kept.end(), all.begin() + i * stride, all.begin() + i * stride + want.kept);
    return kept;
  };
  EXPECT_EQ(lists(got.kept_tokens), lists(want.kept_tokens)) << what;
  EXPECT_EQ(lists(got.kept_scores), lists(want.kept_scores)) << what;
}

}  // namespace

TEST(Generation, AheadEqualsStepByStep) {
  QUEST_NEEDS_GPU();
  Prefilled p;
  for (const MethodOptions& o : methods()) {
    const auto ahead = p.fork(o), stepwise = p.fork(o);
    const auto want = p.step_by_step(*stepwise, 23);
    EXPECT_EQ(p.generate(*ahead, 24), want) << name_of(o);
    expect_same(p.model.spec, *ahead, *stepwise, name_of(o));
    EXPECT_EQ(ahead->length(), 37 + 23);
  }
}

TEST(Generation, StopsAsIfTheStepBeyondHadNotBeen) {
  QUEST_NEEDS_GPU();
  Prefilled p;
  int stopped = 0;
  // Several places of a page: 8 tokens, the first of ours at offset 5.
#ifdef QUEST_EMULATE
  const std::vector<size_t> places{3, 4};
#else
  const std::vector<size_t> places{1, 3, 4, 11, 12, 25};
#endif
  for (const MethodOptions& o : methods()) {
    const auto reference = p.fork(o);
    const auto all = p.step_by_step(*reference, static_cast<int64_t>(places.back()) + 1);
    for (size_t at : places) {
      // A stop id ends at its first appearance.
      if (std::find(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(at), all[at]) != all.begin() + static_cast<std::ptrdiff_t>(at)) continue;
      ++stopped;
      const std::string what = name_of(o) + " stopped at " + std::to_string(at);
      const auto ahead = p.fork(o), stepwise = p.fork(o);
      std::vector<int32_t> want(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(at));
      EXPECT_EQ(p.generate(*ahead, 40, {all[at]}), want) << what;
      p.step_by_step(*stepwise, static_cast<int64_t>(at));
      expect_same(p.model.spec, *ahead, *stepwise, what);
      // Another token comes in the place of the one taken back, and the generation goes on.
      const std::vector<int32_t> others{(all[at] + 1) % 80, 7};
      for (const auto& b : {ahead, stepwise}) {
        FeedRequest r;
        r.branch = b.get();
        r.ids = others;
        p.executor->feed({&r, 1}, p.job);
      }
      EXPECT_EQ(p.generate(*ahead, 9), p.step_by_step(*stepwise, 8)) << what;
      expect_same(p.model.spec, *ahead, *stepwise, what + ", going on");
    }
  }
  EXPECT_GT(stopped, static_cast<int>(methods().size()));
}

// Branches that stop at different tokens leave those that go on alone.
TEST(Generation, BatchesStopOneByOne) {
  QUEST_NEEDS_GPU();
  Prefilled p;
  const auto all = methods();
  // The same rows in one batch, since the number of rows chooses the products: without stop ids first.
  std::vector<std::shared_ptr<CudaBranch>> free_run, stopping;
  std::vector<Branch*> raw;
  for (const auto& o : all) free_run.push_back(p.fork(o)), raw.push_back(free_run.back().get());
  const auto want = p.executor->generate(raw, {20, {}, {}}, kNobody, p.job);
  const std::vector<int32_t> stops{want[0][6], want[3][9]};
  raw.clear();
  for (const auto& o : all) stopping.push_back(p.fork(o)), raw.push_back(stopping.back().get());
  std::vector<std::vector<int32_t>> seen(all.size());
  const auto got = p.executor->generate(raw, {20, stops, {}}, [&](int64_t i, int32_t id) { seen[static_cast<size_t>(i)].push_back(id); }, p.job);
  EXPECT_EQ(got, seen);
  // While all are in the batch they have the same bits; a smaller batch may round otherwise afterwards.
  std::ptrdiff_t together = 20;
  for (const auto& ids : want) {
    together = std::min(together, std::find_if(ids.begin(), ids.end(), [&](int32_t id) { return id == stops[0] || id == stops[1]; }) - ids.begin());
  }
  for (size_t i = 0; i < all.size(); ++i) {
    ASSERT_GE(static_cast<std::ptrdiff_t>(got[i].size()), together) << name_of(all[i]);
    EXPECT_TRUE(std::equal(got[i].begin(), got[i].begin() + together, want[i].begin())) << name_of(all[i]);
    EXPECT_EQ(stopping[i]->length(), 37 + static_cast<int64_t>(got[i].size()) - (got[i].size() == 20 ? 1 : 0)) << name_of(all[i]);
    EXPECT_FALSE(stopping[i]->last_logits.empty());
    EXPECT_FALSE(stopping[i]->broken);
  }
}

TEST(Generation, CancelledItCanGoOn) {
  QUEST_NEEDS_GPU();
  Prefilled p;
  for (const MethodOptions& o : methods()) {
    const auto cancelled = p.fork(o), whole = p.fork(o);
    JobControl job;
    std::vector<int32_t> seen;
    Branch* b = cancelled.get();
    const auto cancel_later = [&](int64_t, int32_t id) {
      seen.push_back(id);
      if (seen.size() == 7) job.cancelled = true;
    };
    EXPECT_THROW(p.executor->generate({&b, 1}, {30, {}, {}}, cancel_later, job), Error);
    EXPECT_EQ(cancelled->length(), 37 + static_cast<int64_t>(seen.size())) << name_of(o);
    EXPECT_LT(seen.size(), 10u);
    const auto want = p.step_by_step(*whole, static_cast<int64_t>(seen.size()) + 6);
    const auto rest = p.generate(*cancelled, 7);
    seen.insert(seen.end(), rest.begin(), rest.end());
    EXPECT_EQ(seen, want) << name_of(o);
    expect_same(p.model.spec, *cancelled, *whole, name_of(o));
  }
}

// The sampler's path, told to draw from one token only.
TEST(Generation, SamplingFromOneTokenIsGreedy) {
  QUEST_NEEDS_GPU();
  Prefilled p;
  for (const MethodOptions& o : {MethodOptions{}, method(Method::quest, 16), method(Method::h2o, 16)}) {
    const auto sampled = p.fork(o), ahead = p.fork(o);
    Branch* b = sampled.get();
    const auto got = p.executor->generate({&b, 1}, {20, {}, {1.0f, 1e-9f, 3}}, kNobody, p.job)[0];
    EXPECT_EQ(got, p.generate(*ahead, 20)) << name_of(o);
    expect_same(p.model.spec, *sampled, *ahead, name_of(o));
  }
}

// More branches than a pass of single steps holds, and branches of two page sizes.
TEST(Generation, ManyBranchesAndTwoPools) {
  QUEST_NEEDS_GPU();
  Prefilled p;
  auto other = p.executor->create(16);
  std::vector<int32_t> ids{1, 2, 3};
  p.executor->prefill(*other, ids, false, p.job);
  std::vector<std::shared_ptr<Branch>> branches{other};
  std::vector<Branch*> raw{other.get()};
  for (int i = 0; i < 40; ++i) branches.push_back(p.fork({})), raw.push_back(branches.back().get());
  const auto out = p.executor->generate(raw, {5, {}, {}}, kNobody, p.job);
  ASSERT_EQ(out.size(), 41u);
  for (size_t i = 1; i < out.size(); ++i) EXPECT_EQ(out[i], out[1]);
  EXPECT_EQ(out[0].size(), 5u);
  EXPECT_EQ(other->length(), 3 + 4);
}

// A cache without a page to spare: the step ahead is not sent, the refusal comes when a page is needed, and leaves the branch whole.
TEST(Generation, FullCache) {
  QUEST_NEEDS_GPU();
  Prefilled p;
  const auto branch = p.fork({});
  const auto first = p.generate(*branch, 2);  // copies the open page: 38 tokens, two short of the page's end
  auto hog = p.executor->create(8);
  const auto left = branch->pool->capacity() - branch->pool->pages()->in_use();
  hog->pages.extend(left * 8);
  EXPECT_EQ(p.generate(*branch, 3).size(), 3u);
  EXPECT_EQ(branch->length(), 40);
  std::vector<int32_t> seen;
  Branch* b = branch.get();
  try {
    p.executor->generate({&b, 1}, {5, {}, {}}, [&](int64_t, int32_t id) { seen.push_back(id); }, p.job);
    ADD_FAILURE() << "a page came from nowhere";
  } catch (const Error& e) {
    EXPECT_EQ(e.code, "E_GPU_MEMORY");
  }
  EXPECT_EQ(branch->length(), 40);
  EXPECT_FALSE(branch->broken);
  EXPECT_EQ(seen.size(), 1u);
}

// Two forks alone with their open page, and one page left: the second to write needs no copy.
TEST(Generation, TheLastPageIsEnoughForTwoForks) {
  QUEST_NEEDS_GPU();
  for (const bool feeds : {false, true}) {
    Prefilled p;
    const auto a = p.fork({}), b = p.fork({});
    p.base.reset();
    auto hog = p.executor->create(8);
    hog->pages.extend((a->pool->capacity() - a->pool->pages()->in_use() - 1) * 8);
    const std::vector<int32_t> id{5};
    if (feeds) {
      FeedRequest requests[2];
      requests[0].branch = a.get(), requests[1].branch = b.get();
      requests[0].ids = requests[1].ids = id;
      p.executor->feed(requests, p.job);
    } else {
      Branch* both[] = {a.get(), b.get()};
      p.executor->generate(both, {2, {}, {}}, kNobody, p.job);
    }
    EXPECT_EQ(a->pool->pages()->in_use(), a->pool->capacity());
    EXPECT_EQ(a->length(), 38);
    expect_same(p.model.spec, *a, *b, feeds ? "fed" : "generated");
  }
}

}  // namespace quest::cuda::test
