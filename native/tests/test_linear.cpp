// linear() against the double-precision loops, and bit for bit over thread counts, row counts and grouping.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "cpu/linear.h"

namespace quest::cpu {
namespace {

std::mt19937& rng() {
  static std::mt19937 engine(7);
  return engine;
}

std::vector<float> random_floats(int64_t count) {
  std::vector<float> out(static_cast<size_t>(count));
  std::normal_distribution<float> normal;
  for (float& value : out) value = normal(rng());
  return out;
}

std::vector<uint16_t> random_bf16(int64_t count) {
  std::vector<uint16_t> out(static_cast<size_t>(count));
  const std::vector<float> values = random_floats(count);
  for (size_t i = 0; i < out.size(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, &values[i], sizeof bits);
    out[i] = static_cast<uint16_t>(bits >> 16);
  }
  return out;
}

// q, k, v of a small GQA model: one input, three outputs.
struct Group {
  int64_t k = 200;
  int64_t ldx = 203;
  std::vector<int64_t> columns = {317, 96, 1};
  std::vector<std::vector<uint16_t>> weights;

  Group() {
    for (const int64_t n : columns) weights.push_back(random_bf16(n * k));
  }

  std::vector<std::vector<float>> run(ThreadPool& pool, const Kernels& kernels, const std::vector<float>& x, int64_t m,
                                      bool add, bool together) const {
    std::vector<std::vector<float>> y;
    std::vector<LinearOut> outs;
    for (const int64_t n : columns) y.emplace_back(static_cast<size_t>(m * (n + 2)), add ? 0.25f : std::numeric_limits<float>::quiet_NaN());
    for (size_t o = 0; o < columns.size(); ++o) {
      outs.push_back({{weights[o].data(), DType::bf16, columns[o], k}, y[o].data(), columns[o] + 2});
    }
    if (together) {
      linear(pool, kernels, x.data(), ldx, m, outs, add);
    } else {
      for (const LinearOut& out : outs) linear(pool, kernels, x.data(), ldx, m, {out}, add);
    }
    return y;
  }
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class LinearTest : public testing::TestWithParam<const Kernels*> {};

INSTANTIATE_TEST_SUITE_P(Levels, LinearTest, testing::ValuesIn(available_kernels()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST_P(LinearTest, AgreesWithTheReference) {
  const Group group;
  ThreadPool pool(2);
  for (const int64_t m : {1, 5, 130}) {
    for (const bool add : {false, true}) {
      const std::vector<float> x = random_floats(m * group.ldx);
      const auto actual = group.run(pool, *GetParam(), x, m, add, true);
      const auto expected = group.run(pool, reference_kernels(), x, m, add, true);
      for (size_t o = 0; o < group.columns.size(); ++o) {
        const int64_t ldy = group.columns[o] + 2;
        for (int64_t i = 0; i < m * ldy; ++i) {
          const float a = actual[o][static_cast<size_t>(i)], e = expected[o][static_cast<size_t>(i)];
          if (i % ldy < group.columns[o]) {
            ASSERT_NEAR(a, e, 2e-4) << "m " << m << " output " << o << " at " << i;
          } else {
            ASSERT_EQ(std::memcmp(&a, &e, sizeof a), 0) << "wrote between rows";
          }
        }
      }
    }
  }
}

TEST_P(LinearTest, BitsDoNotDependOnThreadsOrGrouping) {
  const Group group;
  ThreadPool alone(1);
  for (const int64_t m : {1, 3, 33, 300}) {
    const std::vector<float> x = random_floats(m * group.ldx);
    for (const bool add : {false, true}) {
      const auto expected = group.run(alone, *GetParam(), x, m, add, true);
      for (const int threads : {1, 2, 3, 7}) {
        ThreadPool pool(threads);
        for (const bool together : {true, false}) {
          const auto actual = group.run(pool, *GetParam(), x, m, add, together);
          for (size_t o = 0; o < actual.size(); ++o) {
            EXPECT_TRUE(same_bits(actual[o], expected[o])) << "m " << m << " threads " << threads << " output " << o;
          }
        }
      }
    }
  }
}

TEST_P(LinearTest, BitsOfARowDoNotDependOnTheBatch) {
  const Group group;
  ThreadPool pool(2);
  const int64_t m = 140;
  const std::vector<float> x = random_floats(m * group.ldx);
  const auto batch = group.run(pool, *GetParam(), x, m, false, true);
  for (int64_t i = 0; i < m; i += 7) {
    const std::vector<float> row(x.begin() + i * group.ldx, x.begin() + (i + 1) * group.ldx);
    const auto single = group.run(pool, *GetParam(), row, 1, false, true);
    for (size_t o = 0; o < group.columns.size(); ++o) {
      const int64_t ldy = group.columns[o] + 2;
      EXPECT_EQ(std::memcmp(single[o].data(), batch[o].data() + i * ldy,
                            static_cast<size_t>(group.columns[o]) * sizeof(float)), 0) << "row " << i;
    }
  }
}

// Large enough to be cut into many tiles in both directions.
TEST_P(LinearTest, BitsOfALargeProductDoNotDependOnThreads) {
  const int64_t m = 270, n = 1030, k = 300;
  const std::vector<float> x = random_floats(m * k);
  const std::vector<float> w = random_floats(n * k);
  std::vector<float> one(static_cast<size_t>(m * n)), four = one;
  ThreadPool alone(1), pool(4);
  linear(alone, *GetParam(), x.data(), k, m, {{{w.data(), DType::fp32, n, k}, one.data(), n}}, false);
  linear(pool, *GetParam(), x.data(), k, m, {{{w.data(), DType::fp32, n, k}, four.data(), n}}, false);
  EXPECT_TRUE(same_bits(one, four));
  four[12345] = std::nextafter(four[12345], 10.0f);
  EXPECT_FALSE(same_bits(one, four));
}

TEST(LinearEdges, NoRowsNoOutputs) {
  ThreadPool pool(2);
  const float x = 1;
  float y = 5;
  linear(pool, active_kernels(), &x, 1, 0, {{{&x, DType::fp32, 1, 1}, &y, 1}}, false);
  linear(pool, active_kernels(), &x, 1, 1, {}, false);
  EXPECT_EQ(y, 5.0f);
}

}  // namespace
}  // namespace quest::cpu
