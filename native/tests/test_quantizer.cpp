// The quantiser: rounding against its definition, packing against the reader, and folded scales that leave the model as it was.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <random>

#include "core/awq.h"
#include "core/half.h"
#include "cpu/quantizer.h"
#include "cpu/quantizer_clip.h"
#include "cpu/quantizer_pack.h"

namespace quest::cpu {
namespace {

float widen(uint16_t half) {
  float out;
  reference_kernels().widen(&half, DType::fp16, 1, &out);
  return out;
}

TEST(Half, EveryFp16ComesBack) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const float value = widen(static_cast<uint16_t>(h));
    if (std::isnan(value)) continue;
    ASSERT_EQ(fp16_from_float(value), h);
    ASSERT_EQ(fp16_to_float(static_cast<uint16_t>(h)), value);
  }
}

TEST(Half, RoundsToNearestEven) {
  EXPECT_EQ(fp16_from_float(1.0f + 0x1p-11f), 0x3c00);                 // halfway, to even
  EXPECT_EQ(fp16_from_float(1.0f + 0x1.8p-10f), 0x3c02);               // halfway, to even
  EXPECT_EQ(fp16_from_float(1.0f + 0x1.001p-11f), 0x3c01);
  EXPECT_EQ(fp16_from_float(65519.0f), 0x7bff);
  EXPECT_EQ(fp16_from_float(65520.0f), 0x7c00);
  EXPECT_EQ(fp16_from_float(-0x1p-25f), 0x8000);
  EXPECT_EQ(fp16_from_float(0x1.8p-24f), 0x0002);
  EXPECT_EQ(fp16_from_float(std::numeric_limits<float>::infinity()), 0x7c00);
}

TEST(Quantizer, RoundsEachGroupToItsNearestValues) {
  ThreadPool pool(2);
  const int64_t n = 16, k = 192;
  const int group = 64;
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  std::vector<float> w(static_cast<size_t>(n * k));
  for (float& x : w) x = normal(random);
  for (int64_t i = 0; i < 64; ++i) w[static_cast<size_t>(i)] = 0;           // a group of zeros
  for (int64_t i = 64; i < 128; ++i) w[static_cast<size_t>(i)] += 10;       // one that is far from zero
  const RoundedMatrix m = round_to_nearest(pool, w, n, k, group);
  const std::vector<float> values = rounded_values(pool, m, n, k, group);
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < k; ++i) {
      const auto at = static_cast<size_t>(j * k + i), g = static_cast<size_t>(j * (k / group) + i / group);
      ASSERT_LE(m.q[at], 15);
      ASSERT_LE(m.zeros[g], 15);
      const float scale = widen(m.scales[g]);
      ASSERT_EQ(values[at], static_cast<float>(m.q[at] - m.zeros[g]) * scale);
      // No other of the sixteen values is nearer.
      for (int q = 0; q < 16; ++q) {
        ASSERT_LE(std::fabs(values[at] - w[at]), std::fabs(static_cast<float>(q - m.zeros[g]) * scale - w[at]) + 1e-6f) << j << " " << i;
      }
    }
  }
  EXPECT_EQ(values[0], 0.0f);
}

TEST(Quantizer, PacksWhatTheReaderReads) {
  const int64_t n = 24, k = 64;
  std::vector<uint8_t> q(static_cast<size_t>(n * k));
  for (size_t i = 0; i < q.size(); ++i) q[i] = static_cast<uint8_t>(i * 7 % 16);
  const auto words = pack_words(q, n, k);
  ASSERT_EQ(words.size(), static_cast<size_t>(n * k / 2));
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < k; ++i) {
      ASSERT_EQ(awq_nibble(awq_word(words.data(), i * (n / 8) + j / 8), static_cast<int>(j % 8)), q[static_cast<size_t>(j * k + i)]);
    }
  }
  const auto scales = pack_scales({1, 2, 3, 4, 5, 6}, 3, 2);
  uint16_t got[6];
  std::memcpy(got, scales.data(), sizeof got);
  EXPECT_EQ(std::vector<uint16_t>(got, got + 6), (std::vector<uint16_t>{1, 3, 5, 2, 4, 6}));
}

// Squared error of one group's share of the outputs when it is cut at `ratio` of its largest weight, token by token.
double clipped_error(ThreadPool& pool, const std::vector<float>& w, const std::vector<float>& x, int64_t rows, float ratio) {
  const auto group = static_cast<int64_t>(w.size());
  float largest = 0;
  for (float v : w) largest = std::max(largest, std::fabs(v));
  std::vector<float> cut = w;
  for (float& v : cut) v = std::clamp(v, -largest * ratio, largest * ratio);
  const std::vector<float> values = rounded_values(pool, round_to_nearest(pool, cut, 1, group, static_cast<int>(group)), 1, group, static_cast<int>(group));
  double sum = 0;
  for (int64_t r = 0; r < rows; ++r) {
    double y = 0;
    for (int64_t i = 0; i < group; ++i) {
      y += (static_cast<double>(values[static_cast<size_t>(i)]) - w[static_cast<size_t>(i)]) * x[static_cast<size_t>(r * group + i)];
    }
    sum += y * y;
  }
  return sum;
}

TEST(QuantizerClip, CutsEachGroupWhereItsOutputIsBest) {
  ThreadPool pool(2);
  const int64_t n = 12, k = 96, rows = 50;
  const int group = 32;
  std::mt19937 random(9);
  std::normal_distribution<float> normal;
  std::vector<float> w(static_cast<size_t>(n * k)), x(static_cast<size_t>(rows * k)), scales(static_cast<size_t>(k));
  for (float& v : w) v = normal(random);
  for (float& v : x) v = normal(random);
  for (float& v : scales) v = std::exp(0.5f * normal(random));
  // Weight 5 is far larger than the rest. In the first group nothing comes in at its channel, in the second nearly everything does.
  for (int64_t j = 0; j < n; ++j) w[static_cast<size_t>(j * k + 5)] = w[static_cast<size_t>(j * k + group + 5)] = 9;
  for (int64_t r = 0; r < rows; ++r) {
    x[static_cast<size_t>(r * k + 5)] = 0;
    x[static_cast<size_t>(r * k + group + 5)] = 100 * normal(random);
  }
  std::vector<float> cut = w;
  ClipError error;
  const JobControl job;
  clip_groups(pool, reference_kernels(), job, cut, n, k, group, second_moments(pool, reference_kernels(), x, rows, k, group, scales), error);
  double before = 0, after = 0;
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t g = 0; g < k / group; ++g) {
      const auto at = w.begin() + j * k + g * group;
      const std::vector<float> whole(at, at + group);
      std::vector<float> seen;
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = g * group; i < (g + 1) * group; ++i) seen.push_back(x[static_cast<size_t>(r * k + i)] / scales[static_cast<size_t>(i)]);
      }
      double least = clipped_error(pool, whole, seen, rows, 1);
      before += least;
      for (int s = 1; s < kClipGrid; ++s) least = std::min(least, clipped_error(pool, whole, seen, rows, clip_ratio(s)));
      after += least;
      const std::vector<float> got(cut.begin() + j * k + g * group, cut.begin() + j * k + (g + 1) * group);
      float largest = 0, kept = 0;
      for (float v : whole) largest = std::max(largest, std::fabs(v));
      for (float v : got) kept = std::max(kept, std::fabs(v));
      const double chosen = clipped_error(pool, whole, seen, rows, kept / largest);
      ASSERT_LE(chosen, 1.001 * least + 1e-6) << "row " << j << " group " << g;
      if (g == 0) EXPECT_LT(kept, 0.75f * largest);
      if (g == 1) EXPECT_GT(kept, 0.85f * largest);
    }
  }
  EXPECT_NEAR(error.before / before, 1, 1e-3);
  EXPECT_NEAR(error.after / after, 1, 1e-3);
  EXPECT_LT(after, 0.9 * before);
  EXPECT_GT(error.square, error.before);
}

}  // namespace
}  // namespace quest::cpu
