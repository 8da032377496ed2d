// What model families add to the Llama decoder, through the whole GPU executor and held against the CPU's: a bias on queries,
// keys and values; tied embeddings; seven query heads on one KV head.
#include "cpu/executor.h"
#include "cuda/executor.h"
#include "random_model.h"

namespace quest::cuda::test {

namespace {

// Logits of steps after a prefill: all at once, and the last one as a single step.
std::vector<double> logits_of(Executor& executor) {
  const JobControl job;
  std::vector<int32_t> ids;
  for (int i = 0; i < 60; ++i) ids.push_back(i * 37 % 80);
  const std::span<const int32_t> all(ids);
  const auto branch = executor.create(16);
  executor.prefill(*branch, all.subspan(0, 45), false, job);
  std::vector<double> out;
  for (const auto part : {all.subspan(45, 14), all.subspan(59, 1)}) {
    FeedRequest r;
    r.branch = branch.get();
    r.ids = part;
    r.logits = Logits::all;
    executor.feed({&r, 1}, job);
    out.insert(out.end(), r.logits_out.begin(), r.logits_out.end());
  }
  return out;
}

}  // namespace

TEST(Families, GpuEqualsCpu) {
  QUEST_NEEDS_GPU();
  for (const Shape& shape : {Shape{4, 2, 64, false, false}, Shape{7, 1, 64, true, true}, Shape{2, 2, 128, true, false}}) {
    const RandomModel model(shape);
    const auto gpu = logits_of(*make_cuda_executor(model.spec, 0));
    EXPECT_LT(relative_error(gpu, logits_of(*cpu::make_cpu_executor(model.spec, 1))), 1e-2) << shape.heads << " heads";
    if (!shape.bias) continue;
    ModelSpec without = model.spec;
    without.qkv_bias = false;
    EXPECT_GT(relative_error(gpu, logits_of(*cpu::make_cpu_executor(without, 1))), 0.1);
  }
}

}  // namespace quest::cuda::test
