// What the environment switches off of the GPU's way through a step (early starts, captured graphs, chains of 4-bit products, the fused
// Quest step): the same tokens with and without, and who does not run what says so.
#include <cstdlib>

#include "cuda/branch.h"
#include "cuda/executor.h"
#include "random_model.h"

namespace quest::cuda::test {

namespace {

struct Off {  // a switch, while it lives
  const char* name;
  explicit Off(const char* which) : name(which) { setenv(name, "0", 1); }
  ~Off() { unsetenv(name); }
  Off(const Off&) = delete;
  Off& operator=(const Off&) = delete;
};

// Random 4-bit weights whose layers' products can run in a chain.
ModelSpec four_bits(ModelSpec spec) {
  spec.hidden = 256;
  spec.ffn = 384;
  spec.random_weights = "int4";
  return spec;
}

}  // namespace

// Who runs no chains, or no fused steps, says so, and why: models beside each other, and where they are switched off.
TEST(Switches, ChainsThatDoNotRunAreSaid) {
  QUEST_NEEDS_GPU();
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "cudaDeviceGetAttribute");
  if (major < 9) GTEST_SKIP() << "chains are for compute capability 9.0 and newer";
  const RandomModel model({4, 2, 64, false, false});
  const ModelSpec spec = four_bits(model.spec);
  const char* unfused = "Quest's kernels one by one (another model of this process runs 4-bit products in chains)";
  const auto says = [](const std::unique_ptr<Executor>& e, const char* what) { return e->info().gpu.find(what) != std::string::npos; };
  {
    const auto first = make_cuda_executor(spec, 0), second = make_cuda_executor(spec, 0), sixteen = make_cuda_executor(model.spec, 0);
    EXPECT_FALSE(says(first, "one by one")) << first->info().gpu;
    EXPECT_TRUE(says(second, "4-bit products one by one (another model of this process runs them in chains)")) << second->info().gpu;
    EXPECT_TRUE(says(second, unfused)) << second->info().gpu;
    EXPECT_TRUE(says(sixteen, unfused)) << sixteen->info().gpu;
    EXPECT_FALSE(says(sixteen, "products one by one")) << sixteen->info().gpu;
  }
  {
    const auto sixteen = make_cuda_executor(model.spec, 0), beside = make_cuda_executor(spec, 0);
    EXPECT_FALSE(says(sixteen, "one by one")) << sixteen->info().gpu;
    EXPECT_TRUE(says(beside, "4-bit products one by one (another model of this process is on this GPU)")) << beside->info().gpu;
    EXPECT_FALSE(says(beside, unfused)) << beside->info().gpu;
  }
  EXPECT_FALSE(says(make_cuda_executor(spec, 0), "one by one")) << "the first model gave them back";
  const Off off("QUEST_CUDA_CHAINS");
  EXPECT_TRUE(says(make_cuda_executor(spec, 0), "4-bit products one by one (QUEST_CUDA_CHAINS is 0)"));
}

namespace {

struct Said {
  std::vector<std::vector<int32_t>> tokens;  // of all methods in a batch, then of each alone
  std::vector<std::vector<float>> logits;    // after them
  std::vector<float> fed;                    // of quest, after each of a few given tokens
};

#ifdef QUEST_EMULATE
constexpr int64_t kTokens = 6;  // enough for both slots' steps to be seen, captured and replayed
const std::vector<Method> kMethods{Method::full, Method::quest};
#else
constexpr int64_t kTokens = 20;
const std::vector<Method> kMethods{Method::full, Method::quest, Method::quest_paper, Method::streaming, Method::h2o, Method::tova};
#endif

// What every method generates behind one prefill.
Said generate_all(const ModelSpec& spec) {
  const auto executor = make_cuda_executor(spec, 0);
  const JobControl job;
  std::vector<int32_t> ids;
  for (int i = 0; i < 45; ++i) ids.push_back(i * 53 % 80);
  const auto base = executor->create(8);
  executor->prefill(*base, ids, false, job);
  Said said;
  const auto generate = [&](const std::vector<Method>& methods) {
    std::vector<std::shared_ptr<Branch>> branches;
    std::vector<Branch*> raw;
    for (Method m : methods) {
      MethodOptions o;
      o.method = m;
      o.skip_layers = 1;
      o.budget_tokens = 32;
      if (m == Method::streaming) o.sinks = 4;
      branches.push_back(executor->fork(*base, o));
      raw.push_back(branches.back().get());
    }
    for (auto& tokens : executor->generate(raw, {kTokens, {}, {}}, [](int64_t, int32_t) {}, job)) said.tokens.push_back(std::move(tokens));
    for (const auto& b : branches) said.logits.push_back(static_cast<CudaBranch&>(*b).last_logits);
  };
  generate(kMethods);
#ifndef QUEST_EMULATE
  for (Method m : kMethods) generate({m});
#endif
  MethodOptions quest;
  quest.method = Method::quest;
  quest.budget_tokens = 32;
  quest.skip_layers = 0;
  const auto branch = executor->fork(*base, quest);
  for (size_t i = 0; i < 3; ++i) {
    FeedRequest r;
    r.branch = branch.get();
    r.ids = std::span<const int32_t>(ids).subspan(i, 1);
    r.logits = Logits::all;
    executor->feed({&r, 1}, job);
    said.fed.insert(said.fed.end(), r.logits_out.begin(), r.logits_out.end());
  }
  return said;
}

}  // namespace

TEST(Switches, LeaveTokensAndLogitsAlone) {
  QUEST_NEEDS_GPU();
  const RandomModel model({4, 2, 64, false, false});
  for (const bool int4 : {false, true}) {
    const std::string weights = int4 ? ", 4 bits" : ", 16 bits";
    const ModelSpec spec = int4 ? four_bits(model.spec) : model.spec;
    const Said want = generate_all(spec);
    ASSERT_GE(want.tokens.size(), kMethods.size());
    ASSERT_EQ(want.fed.size(), static_cast<size_t>(3 * spec.vocab));
    for (const auto& tokens : want.tokens) EXPECT_EQ(tokens.size(), static_cast<size_t>(kTokens));
    for (const auto& logits : want.logits) {
      ASSERT_EQ(logits.size(), static_cast<size_t>(spec.vocab));
      for (float x : logits) ASSERT_TRUE(std::isfinite(x));
    }
    EXPECT_NE(want.logits[0], want.logits[1]) << "methods that all say the same show nothing";
    // These change when a kernel starts and how it is launched, and no sum.
    for (const char* name : {"QUEST_CUDA_OVERLAP", "QUEST_CUDA_GRAPHS", "QUEST_CUDA_CHAINS"}) {
      if (!int4 && std::string(name) == "QUEST_CUDA_CHAINS") continue;
      const Off off(name);
      const Said got = generate_all(spec);
      EXPECT_EQ(got.tokens, want.tokens) << name << weights;
      EXPECT_EQ(got.logits, want.logits) << name << weights;
    }
    // The fused step cuts lists elsewhere than the kernels one by one do: other roundings, and the same tokens but for near ties.
    int major = 0;
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "cudaDeviceGetAttribute");
    if (major < 9) continue;
    const Off off("QUEST_CUDA_FUSED");
    const Said got = generate_all(spec);
    EXPECT_EQ(got.logits[0], want.logits[0]) << "the full cache" << weights;
    EXPECT_NE(got.fed, want.fed) << "nothing was switched off" << weights;
    ASSERT_EQ(got.fed.size(), want.fed.size());
    for (size_t i = 0; i < want.fed.size(); ++i) EXPECT_NEAR(got.fed[i], want.fed[i], 0.01) << i << weights;
  }
}

}  // namespace quest::cuda::test
