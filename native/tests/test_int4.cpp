// 4-bit weights on the CPU: AutoAWQ's packing against hand-made words, and every SIMD level bit for bit against its own products
// with the same numbers in fp32.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "core/awq.h"
#include "core/error.h"
#include "cpu/int4.h"

namespace quest::cpu {
namespace {

std::mt19937& rng() {
  static std::mt19937 engine(20);
  return engine;
}

// A matrix in AutoAWQ's layout, at odd addresses, and its values one by one.
struct Checkpoint {
  int64_t n, k, group;
  std::vector<unsigned char> weights, zeros, scales;

  Checkpoint(int64_t outputs, int64_t inputs, int64_t group_size)
      : n(outputs), k(inputs), group(group_size), weights(bytes(k * n / 2)), zeros(bytes(k / group * n / 2)), scales(bytes(k / group * n * 2)) {
    for (auto* words : {&weights, &zeros}) {
      for (unsigned char& b : *words) b = static_cast<unsigned char>(rng()());
    }
    for (int64_t i = 0; i < k / group * n; ++i) {
      const auto bits = static_cast<uint16_t>((rng()() & 0x3ff) | (9 + rng()() % 4) << 10);  // 2^-6 .. 2^-2
      std::memcpy(&scales[1 + 2 * static_cast<size_t>(i)], &bits, 2);
    }
  }
  static size_t bytes(int64_t count) { return 1 + static_cast<size_t>(count); }

  Tensor tensor() const {
    Tensor t{weights.data() + 1, DType::fp16, n, k};
    t.group = group;
    t.zeros = zeros.data() + 1;
    t.scales = scales.data() + 1;
    return t;
  }

  std::vector<float> values() const {
    std::vector<float> out;
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t i = 0; i < k; ++i) {
        const int q = static_cast<int>(awq_nibble(awq_word(weights.data() + 1, i * (n / 8) + j / 8), static_cast<int>(j % 8)));
        const int zero = static_cast<int>(awq_nibble(awq_word(zeros.data() + 1, i / group * (n / 8) + j / 8), static_cast<int>(j % 8)));
        float scale;
        reference_kernels().widen(&scales[1 + 2 * static_cast<size_t>(i / group * n + j)], DType::fp16, 1, &scale);
        out.push_back(static_cast<float>(q - zero) * scale);
      }
    }
    return out;
  }
};

struct Loaded {
  Weights weights;
  Int4Weights int4;
  Loaded(const Checkpoint& c, ThreadPool& pool) : weights(one(c)), int4(weights, pool) {}
  Weight weight() const { return int4.of(weights.layers[0].q); }

  static Weights one(const Checkpoint& c) {
    Weights w;
    w.layers.emplace_back();
    w.layers[0].q = c.tensor();
    return w;
  }
};

std::vector<float> random_floats(int64_t count) {
  std::vector<float> out(static_cast<size_t>(count));
  std::normal_distribution<float> normal;
  for (float& value : out) value = normal(rng());
  return out;
}

TEST(Awq, NibblesLieInAutoAwqsOrder) {
  // Eight outputs of one input: AutoAWQ puts output order[i] at bits 4 i with order 0 2 4 6 1 3 5 7.
  const uint32_t word = 0x75316420u;
  for (int o = 0; o < 8; ++o) EXPECT_EQ(awq_nibble(word, o), static_cast<uint32_t>(o));
  for (int b = 0; b < 8; ++b) EXPECT_EQ(kAwqNibble[kAwqOutput[b]], b);
}

TEST(Awq, HandMadeMatrixReadsAsWritten) {
  // Two groups of 32 inputs, eight outputs: weight (j, i) is (i + j) % 16, zeros j and 15 - j, scales 2^-j and 3.
  std::vector<uint32_t> weights(64, 0), zeros(2, 0);
  std::vector<uint16_t> scales(16);
  const int order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  for (uint32_t i = 0; i < 64; ++i) {
    for (int b = 0; b < 8; ++b) weights[i] |= (i + static_cast<uint32_t>(order[b])) % 16u << (4 * b);
  }
  for (int b = 0; b < 8; ++b) {
    zeros[0] |= static_cast<uint32_t>(order[b]) << (4 * b);
    zeros[1] |= static_cast<uint32_t>(15 - order[b]) << (4 * b);
  }
  for (int j = 0; j < 8; ++j) {
    scales[static_cast<size_t>(j)] = static_cast<uint16_t>((15 - j) << 10);
    scales[static_cast<size_t>(8 + j)] = 0x4200;
  }
  Weights w;
  w.layers.emplace_back();
  Tensor& t = w.layers[0].down;
  t = {weights.data(), DType::fp16, 8, 64};
  t.group = 32;
  t.zeros = zeros.data();
  t.scales = scales.data();
  ThreadPool pool(2);
  const Int4Weights loaded(w, pool);
  for (const Kernels* kernels : available_kernels()) {
    for (int i = 0; i < 64; ++i) {
      std::vector<float> x(64, 0.0f), y(8, std::numeric_limits<float>::quiet_NaN());
      x[static_cast<size_t>(i)] = 1;
      linear(pool, *kernels, x.data(), 64, 1, {{loaded.of(t), y.data(), 8}}, false);
      for (int j = 0; j < 8; ++j) {
        const int zero = i < 32 ? j : 15 - j;
        const float scale = i < 32 ? std::ldexp(1.0f, -j) : 3.0f;
        EXPECT_EQ(y[static_cast<size_t>(j)], static_cast<float>((i + j) % 16 - zero) * scale) << kernels->name << " input " << i << " output " << j;
      }
    }
  }
}

class Int4Test : public testing::TestWithParam<const Kernels*> {};

INSTANTIATE_TEST_SUITE_P(Levels, Int4Test, testing::ValuesIn(available_kernels()), [](const auto& info) { return std::string(info.param->name); });

struct Shape {
  int64_t n, k, group;
};
const Shape kShapes[] = {{8, 32, 32},   {16, 64, 64},   {24, 128, 128}, {40, 96, 32},   {56, 320, 64},
                         {8, 1152, 128}, {72, 1088, 64}, {200, 2048, 128}, {16, 2080, 32}};

TEST_P(Int4Test, GivesTheBitsOfTheSameNumbersInFp32) {
  ThreadPool pool(2);
  for (const Shape& s : kShapes) {
    const Checkpoint checkpoint(s.n, s.k, s.group);
    const Loaded loaded(checkpoint, pool);
    const std::vector<float> values = checkpoint.values();
    for (const int64_t m : {1, 2, 3, 4, 5, 17, 130}) {
      const int64_t ldx = s.k + 3, ldy = s.n + 2;
      std::vector<float> x = random_floats(m * ldx);
      for (int64_t i = 0; i < m; ++i) std::fill_n(x.begin() + i * ldx + s.k, 3, std::numeric_limits<float>::quiet_NaN());
      for (const bool add : {false, true}) {
        std::vector<float> y(static_cast<size_t>(m * ldy), add ? 0.5f : std::numeric_limits<float>::quiet_NaN()), want = y;
        linear(pool, *GetParam(), x.data(), ldx, m, {{loaded.weight(), y.data(), ldy}}, add);
        linear(pool, *GetParam(), x.data(), ldx, m, {{{values.data(), DType::fp32, s.n, s.k}, want.data(), ldy}}, add);
        EXPECT_EQ(std::memcmp(y.data(), want.data(), y.size() * sizeof(float)), 0) << "n " << s.n << " k " << s.k << " group " << s.group << " m " << m;
      }
    }
  }
}

TEST_P(Int4Test, AgreesWithTheReference) {
  ThreadPool pool(1);
  for (const Shape& s : kShapes) {
    const Loaded loaded(Checkpoint(s.n, s.k, s.group), pool);
    for (const int64_t m : {1, 6}) {
      const std::vector<float> x = random_floats(m * s.k);
      std::vector<float> y(static_cast<size_t>(m * s.n)), want = y;
      linear(pool, *GetParam(), x.data(), s.k, m, {{loaded.weight(), y.data(), s.n}}, false);
      linear(pool, reference_kernels(), x.data(), s.k, m, {{loaded.weight(), want.data(), s.n}}, false);
      for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], want[i], 1e-3) << "n " << s.n << " k " << s.k << " group " << s.group;
    }
  }
}

TEST_P(Int4Test, BitsDoNotDependOnThreadsOrBatch) {
  ThreadPool alone(1), pool(3);
  const Checkpoint checkpoint(1032, 1152, 128);
  const Loaded loaded(checkpoint, alone);
  const int64_t m = 140;
  const std::vector<float> x = random_floats(m * checkpoint.k);
  std::vector<float> one(static_cast<size_t>(m * checkpoint.n)), three = one;
  linear(alone, *GetParam(), x.data(), checkpoint.k, m, {{loaded.weight(), one.data(), checkpoint.n}}, false);
  linear(pool, *GetParam(), x.data(), checkpoint.k, m, {{loaded.weight(), three.data(), checkpoint.n}}, false);
  EXPECT_EQ(std::memcmp(one.data(), three.data(), one.size() * sizeof(float)), 0);
  for (int64_t i = 0; i < m; i += 13) {
    std::vector<float> row(static_cast<size_t>(checkpoint.n));
    linear(pool, *GetParam(), x.data() + i * checkpoint.k, checkpoint.k, 1, {{loaded.weight(), row.data(), checkpoint.n}}, false);
    EXPECT_EQ(std::memcmp(row.data(), one.data() + i * checkpoint.n, row.size() * sizeof(float)), 0) << i;
  }
}

TEST_P(Int4Test, TeethOneNibble) {
  ThreadPool pool(1);
  Checkpoint checkpoint(16, 256, 128);
  const std::vector<float> values = checkpoint.values();
  checkpoint.weights[1 + 777] ^= 0x10;
  const Loaded loaded(checkpoint, pool);
  const std::vector<float> x = random_floats(256);
  std::vector<float> y(16), want = y;
  linear(pool, *GetParam(), x.data(), 256, 1, {{loaded.weight(), y.data(), 16}}, false);
  linear(pool, *GetParam(), x.data(), 256, 1, {{{values.data(), DType::fp32, 16, 256}, want.data(), 16}}, false);
  EXPECT_NE(std::memcmp(y.data(), want.data(), 64), 0);
}

TEST(Awq, OtherCombinationsAreRefused) {
  const auto message = [](int64_t rows, int64_t cols, int64_t group, DType scales) -> std::string {
    try {
      check_int4("layers.0.q", rows, cols, group, scales);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(message(64, 256, 128, DType::fp16), "");
  EXPECT_NE(message(64, 256, 256, DType::fp16).find("groups of 256"), std::string::npos);
  EXPECT_NE(message(64, 256, -1, DType::fp16).find("groups of -1"), std::string::npos);
  EXPECT_NE(message(64, 320, 128, DType::fp16).find("320 inputs in groups of 128"), std::string::npos);
  EXPECT_NE(message(60, 256, 128, DType::fp16).find("60 outputs"), std::string::npos);
  EXPECT_NE(message(64, 256, 128, DType::bf16).find("scales in bf16"), std::string::npos);
}

}  // namespace
}  // namespace quest::cpu
