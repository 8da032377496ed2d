// The memory plan against what loading a model takes.
#include "cuda/device_weights.h"
#include "cuda/executor.h"
#include "cuda/kv_pool.h"
#include "cuda/memory_plan.h"
#include "random_model.h"
#include "support.h"

namespace quest::cuda::test {

TEST(MemoryPlan, IsWhatIsAllocated) {
  QUEST_NEEDS_GPU();
  for (const Shape& shape : {Shape{4, 2, 64, false, false}, Shape{7, 1, 64, true, true}}) {
    const RandomModel model(shape);
    const ModelSpec& spec = model.spec;
    EXPECT_EQ(DeviceWeights::bytes_of(spec), DeviceWeights(spec, Weights::map(spec), nullptr).bytes());
    for (int page_size : {1, 16, 128}) {
      size_t free = 0, total = 0;
      check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
      const KvPool pool(spec, page_size, 1'000'000);
      EXPECT_EQ(pool.capacity(), pages_that_fit(spec, page_size, static_cast<int64_t>(free), 1'000'000));
      // As executor.cpp asks for it.
      const GpuMemoryPlan plan = plan_memory(spec, page_size, int64_t{64} << 30);
      EXPECT_EQ(plan.pages, (kPoolContexts * spec.max_context + page_size - 1) / page_size);
      EXPECT_EQ(plan.kv_page_bytes, 2 * spec.n_layers * spec.n_kv_heads * page_size * spec.head_dim * 2);
      EXPECT_EQ(plan.metadata_page_bytes * page_size, plan.kv_page_bytes);
    }
    // Less than weights, workspace and reserve: no pages, no negative numbers.
    for (int64_t free : {int64_t{0}, int64_t{1} << 20, int64_t{640} << 20}) {
      const GpuMemoryPlan plan = plan_memory(spec, 16, free);
      EXPECT_EQ(plan.pages, 0);
      EXPECT_GT(plan.weight_bytes + plan.workspace_bytes + plan.reserved_bytes, free);
    }
  }
}

TEST(MemoryPlan, RefusesWhatTheKernelsDoNotCover) {
  QUEST_NEEDS_GPU();
  const RandomModel model(Shape{4, 2, 64, false, false});
  ModelSpec spec = model.spec;
  spec.ffn = 100;
  EXPECT_THROW(plan_memory(spec, 16, int64_t{1} << 34), Error);
  EXPECT_THROW(plan_memory(model.spec, 24, int64_t{1} << 34), Error);
}

}  // namespace quest::cuda::test
