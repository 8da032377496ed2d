#include <gtest/gtest.h>

#include "cuda/step_graphs.h"

namespace quest::cuda::test {

TEST(StepGraphs, KeepTheShapesUsedLast) {
  StepGraphs graphs(3);
  const auto known = [&](int64_t shape) { return graphs.find({7, shape}) != nullptr; };
  for (int64_t shape : {0, 1, 2}) EXPECT_FALSE(known(shape)) << shape;
  for (int64_t shape : {0, 1, 2}) EXPECT_TRUE(known(shape)) << shape;
  EXPECT_TRUE(known(0));   // 1 is now the one used longest ago
  EXPECT_FALSE(known(3));  // and goes
  EXPECT_EQ(graphs.size(), 3u);
  EXPECT_TRUE(known(2));
  EXPECT_TRUE(known(0));
  EXPECT_TRUE(known(3));
  EXPECT_FALSE(known(1));  // in the place of 2
  EXPECT_FALSE(known(2));  // in the place of 0
  EXPECT_EQ(graphs.size(), 3u);
  graphs.clear();
  EXPECT_EQ(graphs.size(), 0u);
  EXPECT_FALSE(known(3));
}

TEST(StepGraphs, AGraphStaysInItsPlace) {
  StepGraphs graphs(2);
  const StepGraphs::Shape shape{1, 2, 3}, other{1, 2};
  ASSERT_EQ(graphs.find(shape), nullptr);
  cudaGraphExec_t* const place = graphs.find(shape);
  ASSERT_NE(place, nullptr);
  EXPECT_EQ(*place, nullptr) << "nothing is captured yet";
  EXPECT_EQ(graphs.find(other), nullptr);
  EXPECT_NE(graphs.find(other), place);
  EXPECT_EQ(graphs.find(shape), place);
}

}  // namespace quest::cuda::test
