// Each iteration once, whatever the number of threads; exceptions; threads that slept.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cpu/thread_pool.h"

namespace quest::cpu {
namespace {

class ThreadPoolTest : public testing::TestWithParam<int> {};

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, testing::Values(1, 2, 3, 4, 16),
                         [](const auto& info) { return std::to_string(info.param); });

TEST_P(ThreadPoolTest, RunsEachIterationOnce) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.threads(), GetParam());
  for (const int64_t n : {0, 1, 2, 3, 16, 17, 1000}) {
    std::vector<std::atomic<int>> runs(static_cast<size_t>(n));
    std::atomic<bool> worker_in_range{true};
    pool.parallel_for(n, [&](int64_t i, int worker) {
      ++runs[static_cast<size_t>(i)];
      if (worker < 0 || worker >= pool.threads()) worker_in_range = false;
    });
    for (const std::atomic<int>& count : runs) EXPECT_EQ(count, 1);
    EXPECT_TRUE(worker_in_range);
  }
}

TEST_P(ThreadPoolTest, ResultsAreVisibleToTheCallerWithoutAtomics) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> out(64);
  for (int64_t call = 0; call < 500; ++call) {
    pool.parallel_for(64, [&](int64_t i, int) { out[static_cast<size_t>(i)] = call + i; });
    for (int64_t i = 0; i < 64; ++i) ASSERT_EQ(out[static_cast<size_t>(i)], call + i);
  }
}

TEST_P(ThreadPoolTest, OneWorkerNumberIsNeverUsedByTwoThreadsAtOnce) {
  ThreadPool pool(GetParam());
  std::vector<std::atomic<int>> inside(static_cast<size_t>(GetParam()));
  std::atomic<bool> clash{false};
  pool.parallel_for(500, [&](int64_t, int worker) {
    if (++inside[static_cast<size_t>(worker)] != 1) clash = true;
    --inside[static_cast<size_t>(worker)];
  });
  EXPECT_FALSE(clash);
}

TEST_P(ThreadPoolTest, RethrowsAndGoesOn) {
  ThreadPool pool(GetParam());
  for (int call = 0; call < 50; ++call) {
    std::atomic<int> runs{0};
    try {
      pool.parallel_for(40, [&](int64_t i, int) {
        ++runs;
        if (i == 20) throw std::runtime_error("iteration 20");
      });
      FAIL() << "no exception";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "iteration 20");
    }
    EXPECT_LE(runs, 40);
    runs = 0;
    pool.parallel_for(40, [&](int64_t, int) { ++runs; });
    EXPECT_EQ(runs, 40);
  }
}

TEST_P(ThreadPoolTest, WakesThreadsThatSleep) {
  ThreadPool pool(GetParam());
  for (int call = 0; call < 20; ++call) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // far longer than they spin
    std::atomic<int> runs{0};
    pool.parallel_for(8, [&](int64_t, int) { ++runs; });
    EXPECT_EQ(runs, 8);
  }
}

TEST_P(ThreadPoolTest, WaitsForALongLastIteration) {
  ThreadPool pool(GetParam());
  std::atomic<int> runs{0};
  pool.parallel_for(4, [&](int64_t i, int) {
    if (i == 1) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ++runs;
  });
  EXPECT_EQ(runs, 4);
}

TEST_P(ThreadPoolTest, EndsAtOnce) {
  for (int i = 0; i < 20; ++i) const ThreadPool pool(GetParam());
}

TEST(ThreadPoolSize, ZeroMeansAllCores) {
  EXPECT_GE(usable_cores(), 1);
  EXPECT_EQ(ThreadPool(0).threads(), usable_cores());
}

}  // namespace
}  // namespace quest::cpu
