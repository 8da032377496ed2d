// What the environment switches off of the GPU's way through a step.
#include <cstdlib>

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

// Who runs no chains says so, and why: a second model beside the first, and where they are switched off.
TEST(Switches, ChainsThatDoNotRunAreSaid) {
  QUEST_NEEDS_GPU();
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "cudaDeviceGetAttribute");
  if (major < 9) GTEST_SKIP() << "chains are for compute capability 9.0 and newer";
  const RandomModel model({4, 2, 64, false, false});
  const ModelSpec spec = four_bits(model.spec);
  const auto says = [](const std::unique_ptr<Executor>& e, const char* what) { return e->info().gpu.find(what) != std::string::npos; };
  {
    const auto sixteen = make_cuda_executor(model.spec, 0), first = make_cuda_executor(spec, 0), second = make_cuda_executor(spec, 0);
    EXPECT_FALSE(says(sixteen, "one by one")) << sixteen->info().gpu;
    EXPECT_FALSE(says(first, "one by one")) << first->info().gpu;
    EXPECT_TRUE(says(second, "4-bit products one by one (another model of this process runs them in chains)")) << second->info().gpu;
  }
  EXPECT_FALSE(says(make_cuda_executor(spec, 0), "one by one")) << "the first model gave them back";
  const Off off("QUEST_CUDA_CHAINS");
  EXPECT_TRUE(says(make_cuda_executor(spec, 0), "4-bit products one by one (QUEST_CUDA_CHAINS is 0)"));
}

}  // namespace quest::cuda::test
