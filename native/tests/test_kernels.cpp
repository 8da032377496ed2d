// Every SIMD level against the double-precision loops, over ugly shapes, with NaN around and behind every operand; and
// bit for bit against itself, cut into smaller calls.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "bench/cpu_cases.h"
#include "cpu/kernels.h"

namespace quest::cpu {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr DType kDTypes[] = {DType::fp32, DType::fp16, DType::bf16};

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// NaN with a mark: a kernel that wrote it over with anything, its own NaN included, is found out.
const float kPoison = float_of(0x7fc0beefu);

std::mt19937& rng() {
  static std::mt19937 engine(20240607);
  return engine;
}

float normal() { return std::normal_distribution<float>()(rng()); }

// [rows, width] floats in rows of `stride`, poison behind each row; exactly as long as its last row, for the sanitizer.
struct Matrix {
  int64_t rows, width, stride;
  std::vector<float> data;

  Matrix(int64_t rows_, int64_t width_, int64_t stride_)
      : rows(rows_), width(width_), stride(stride_), data(static_cast<size_t>((rows_ - 1) * stride_ + width_), kPoison) {}

  static Matrix random(int64_t rows, int64_t width, int64_t stride) {
    Matrix matrix(rows, width, stride);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < width; ++j) matrix.at(i, j) = normal();
    }
    return matrix;
  }

  float& at(int64_t i, int64_t j) { return data[static_cast<size_t>(i * stride + j)]; }
  float at(int64_t i, int64_t j) const { return data[static_cast<size_t>(i * stride + j)]; }
  float* row(int64_t i) { return data.data() + i * stride; }
  const float* row(int64_t i) const { return data.data() + i * stride; }

  bool gaps_poisoned() const {
    for (size_t index = 0; index < data.size(); ++index) {
      if (static_cast<int64_t>(index) % stride >= width && bits_of(data[index]) != bits_of(kPoison)) return false;
    }
    return true;
  }
};

// Weights of any type that end exactly where their allocation ends, at an odd address.
struct Weights {
  DType dtype;
  int64_t count;
  std::vector<unsigned char> bytes;

  Weights(DType dtype_, int64_t count_)
      : dtype(dtype_), count(count_), bytes(1 + static_cast<size_t>(count_) * dtype_bytes(dtype_)) {}

  static Weights random(DType dtype, int64_t count) {
    Weights weights(dtype, count);
    for (int64_t i = 0; i < count; ++i) {
      if (dtype == DType::fp32) {
        weights.set(i, bits_of(normal()));
      } else if (dtype == DType::bf16) {
        weights.set(i, bits_of(normal()) >> 16);
      } else {
        const uint32_t exponent = 9 + rng()() % 8;  // 2^-6 .. 2
        weights.set(i, (rng()() & 0x83ff) | exponent << 10);
      }
    }
    return weights;
  }

  void set(int64_t index, uint32_t raw) {
    std::memcpy(bytes.data() + 1 + static_cast<size_t>(index) * dtype_bytes(dtype), &raw, dtype_bytes(dtype));
  }
  void set_nan(int64_t index) { set(index, dtype == DType::fp16 ? 0x7e00u : dtype == DType::bf16 ? 0x7fc0u : bits_of(kNaN)); }
  const unsigned char* at(int64_t index) const {
    return bytes.data() + 1 + static_cast<size_t>(index) * dtype_bytes(dtype);
  }
  std::vector<float> widened() const {
    std::vector<float> out(static_cast<size_t>(count));
    reference_kernels().widen(at(0), dtype, count, out.data());
    return out;
  }
};

// Elements of `actual` off by more than their tolerance, NaN and infinities included.
int64_t count_wrong(const Matrix& actual, const Matrix& expected, const Matrix& tolerance) {
  int64_t wrong = 0;
  for (int64_t i = 0; i < actual.rows; ++i) {
    for (int64_t j = 0; j < actual.width; ++j) {
      const float a = actual.at(i, j);
      const float e = expected.at(i, j);
      const bool same = std::isnan(e) ? std::isnan(a) : a == e || std::fabs(a - e) <= tolerance.at(i, j);
      wrong += same ? 0 : 1;
    }
  }
  return wrong;
}

int64_t count_different_bits(const Matrix& a, const Matrix& b) {
  int64_t different = 0;
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < a.width; ++j) different += bits_of(a.at(i, j)) != bits_of(b.at(i, j)) ? 1 : 0;
  }
  return different;
}

Matrix absolute(Matrix matrix) {
  for (float& value : matrix.data) value = bits_of(value) == bits_of(kPoison) ? value : std::fabs(value);
  return matrix;
}

// What a sum of these terms may be off by: far below one term, several times what rounding makes of random ones.
Matrix sum_tolerance(Matrix sum_of_magnitudes) {
  for (float& value : sum_of_magnitudes.data) value = value * 1e-6f + 1e-30f;
  return sum_of_magnitudes;
}

std::vector<float> scratch_for(const Kernels& kernels, int64_t k) {
  return std::vector<float>(static_cast<size_t>(kernels.gemm_scratch_floats(k)), kPoison);
}

void run_gemm(const Kernels& kernels, const Matrix& x, int64_t i, int64_t m, const Weights& w, int64_t j, int64_t n,
              int64_t k, bool add, Matrix& y) {
  std::vector<float> scratch = scratch_for(kernels, k);
  kernels.gemm(x.row(i), x.stride, m, w.at(j * k), w.dtype, n, k, y.row(i) + j, y.stride, add, scratch.data());
}

Matrix gemm_magnitude(const Matrix& x, const Weights& w, int64_t n, int64_t k, const Matrix& y) {
  Weights positive(DType::fp32, n * k);
  const std::vector<float> widened = w.widened();
  for (int64_t i = 0; i < n * k; ++i) positive.set(i, bits_of(std::fabs(widened[static_cast<size_t>(i)])));
  Matrix magnitude = absolute(y);
  run_gemm(reference_kernels(), absolute(x), 0, x.rows, positive, 0, n, k, true, magnitude);
  return magnitude;
}

class KernelsTest : public testing::TestWithParam<const Kernels*> {
 protected:
  const Kernels& kernels() const { return *GetParam(); }
};

INSTANTIATE_TEST_SUITE_P(Levels, KernelsTest, testing::ValuesIn(available_kernels()),
                         [](const auto& info) { return std::string(info.param->name); });

void check_gemm(const Kernels& kernels, int64_t m, int64_t n, int64_t k, DType dtype, bool add) {
  SCOPED_TRACE(testing::Message() << "m " << m << " n " << n << " k " << k << ' ' << dtype_name(dtype) << " add " << add);
  const Matrix x = Matrix::random(m, k, k + 5);
  const Weights w = Weights::random(dtype, n * k);
  Matrix actual(m, n, n + 3);
  if (add) actual = Matrix::random(m, n, n + 3);
  Matrix expected = actual;
  const Matrix tolerance = sum_tolerance(gemm_magnitude(x, w, n, k, add ? actual : [&] {
    Matrix zero = actual;
    for (int64_t i = 0; i < m; ++i) std::fill_n(zero.row(i), n, 0.0f);
    return zero;
  }()));
  run_gemm(kernels, x, 0, m, w, 0, n, k, add, actual);
  run_gemm(reference_kernels(), x, 0, m, w, 0, n, k, add, expected);
  EXPECT_EQ(count_wrong(actual, expected, tolerance), 0);
  EXPECT_TRUE(actual.gaps_poisoned());
}

TEST_P(KernelsTest, GemmOverUglyShapes) {
  for (const int64_t m : {1, 2, 3, 4, 5, 15, 16, 17, 64, 129}) {
    for (const int64_t n : {1, 5, 15, 16, 17, 31}) {
      for (const int64_t k : {1, 7, 16, 31, 32, 64, 96, 172, 256}) {
        const DType dtype = kDTypes[static_cast<size_t>(m + n + k) % 3];
        check_gemm(kernels(), m, n, k, dtype, (m + n / 2 + k) % 2 == 0);
      }
    }
  }
}

TEST_P(KernelsTest, GemmOfEveryTypeAndAdd) {
  for (const DType dtype : kDTypes) {
    for (const bool add : {false, true}) {
      for (const int64_t m : {1, 2, 3, 4, 7}) {
        for (const int64_t k : {31, 64, 1000}) check_gemm(kernels(), m, 37, k, dtype, add);
      }
    }
  }
}

TEST_P(KernelsTest, GemmAcrossBlocks) {
  check_gemm(kernels(), 1, 2047, 257, DType::fp16, false);
  check_gemm(kernels(), 5, 2047, 33, DType::bf16, true);
  check_gemm(kernels(), 3, 40, 1023, DType::fp16, false);
  check_gemm(kernels(), 2, 40, 1025, DType::fp32, true);
  check_gemm(kernels(), 6, 35, 2048, DType::fp16, false);
  check_gemm(kernels(), 9, 20, 3001, DType::bf16, true);
  check_gemm(kernels(), 300, 197, 19, DType::fp16, true);
}

TEST(KernelsCheck, GemmComparerSeesOneDroppedTermAndOneWrongElement) {
  const int64_t m = 4, n = 33, k = 2047;
  Matrix x = Matrix::random(m, k, k);
  const Weights w = Weights::random(DType::fp16, n * k);
  Matrix expected(m, n, n), zero(m, n, n);
  std::fill(zero.data.begin(), zero.data.end(), 0.0f);
  run_gemm(reference_kernels(), x, 0, m, w, 0, n, k, false, expected);
  const Matrix tolerance = sum_tolerance(gemm_magnitude(x, w, n, k, zero));
  EXPECT_EQ(count_wrong(expected, expected, tolerance), 0);

  Matrix actual = expected;
  actual.at(2, 17) += 3 * tolerance.at(2, 17);
  EXPECT_EQ(count_wrong(actual, expected, tolerance), 1);
  actual.at(2, 17) = kNaN;
  EXPECT_EQ(count_wrong(actual, expected, tolerance), 1);
  EXPECT_EQ(count_different_bits(actual, expected), 1);

  x.at(1, k - 1) = 0;  // as if a kernel forgot the last element of row 1
  run_gemm(reference_kernels(), x, 0, m, w, 0, n, k, false, actual);
  EXPECT_GE(count_wrong(actual, expected, tolerance), n - 1);

  Matrix padded(3, 5, 7);
  EXPECT_TRUE(padded.gaps_poisoned());
  padded.data[5] = kNaN;
  EXPECT_FALSE(padded.gaps_poisoned());
}

TEST_P(KernelsTest, GemmBitsDoNotDependOnTheCall) {
  const std::tuple<int64_t, DType, bool> cases[] = {{1, DType::fp32, false},
                                                    {24, DType::bf16, true},
                                                    {96, DType::fp16, false},
                                                    {1000, DType::fp32, true},
                                                    {2500, DType::fp16, false}};
  for (const auto& [k, dtype, add] : cases) {
    SCOPED_TRACE(testing::Message() << "k " << k << ' ' << dtype_name(dtype));
    const int64_t m = 133, n = 203;
    const Matrix x = Matrix::random(m, k, k + 1);
    const Weights w = Weights::random(dtype, n * k);
    const Matrix start = Matrix::random(m, n, n + 3);
    Matrix whole = start;
    run_gemm(kernels(), x, 0, m, w, 0, n, k, add, whole);
    for (const int64_t rows : {1, 2, 3, 4, 5, 64}) {
      Matrix parts = start;
      for (int64_t i = 0; i < m; i += rows) {
        for (const auto& [j, columns] : {std::pair<int64_t, int64_t>{0, 1}, {1, 76}, {77, 126}}) {
          run_gemm(kernels(), x, i, std::min(rows, m - i), w, j, columns, k, add, parts);
        }
      }
      EXPECT_EQ(count_different_bits(whole, parts), 0) << rows << " rows at a time";
    }
  }
}

TEST_P(KernelsTest, GemmKeepsNaNAndInfinityInTheirRowAndColumn) {
  for (const DType dtype : kDTypes) {
    for (const int64_t m : {1, 4, 19}) {
      const int64_t n = 21, k = 77;
      Matrix x = Matrix::random(m, k, k);
      Weights w = Weights::random(dtype, n * k);
      x.at(m - 1, k - 1) = kNaN;
      w.set_nan(8 * k + 3);
      w.set(20 * k + 5, dtype == DType::fp32 ? bits_of(kInf) : dtype == DType::fp16 ? 0x7c00u : 0x7f80u);
      Matrix actual(m, n, n);
      run_gemm(kernels(), x, 0, m, w, 0, n, k, false, actual);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          const float y = actual.at(i, j);
          EXPECT_EQ(std::isnan(y), i == m - 1 || j == 8) << m << ": " << i << ", " << j;
          EXPECT_EQ(std::isinf(y), i != m - 1 && j == 20) << m << ": " << i << ", " << j;
        }
      }
    }
  }
}

TEST_P(KernelsTest, WidensEvery16BitPattern) {
  for (const DType dtype : {DType::fp16, DType::bf16}) {
    Weights w(dtype, 65536);
    for (int64_t i = 0; i < 65536; ++i) w.set(i, static_cast<uint32_t>(i));
    const std::vector<float> expected = w.widened();
    for (const int64_t first : {0, 3}) {  // 3: every pattern in another lane, and a tail
      std::vector<float> actual(65536, kPoison);
      kernels().widen(w.at(first), dtype, 65536 - first, actual.data());
      for (int64_t i = first; i < 65536; ++i) {
        const float a = actual[static_cast<size_t>(i - first)], e = expected[static_cast<size_t>(i)];
        if (std::isnan(e)) {
          ASSERT_TRUE(std::isnan(a)) << dtype_name(dtype) << ' ' << i;
        } else {
          ASSERT_EQ(bits_of(a), bits_of(e)) << dtype_name(dtype) << ' ' << i;
        }
      }
      for (int64_t i = 65536 - first; i < 65536; ++i) ASSERT_EQ(bits_of(actual[static_cast<size_t>(i)]), bits_of(kPoison));
    }
  }
  EXPECT_EQ(Weights(DType::fp16, 1).widened()[0], 0.0f);
}

TEST(KernelsCheck, ReferenceWidensKnownValues) {
  const std::pair<uint32_t, float> halves[] = {{0x3c00, 1.0f},      {0xc000, -2.0f},     {0x7bff, 65504.0f},
                                               {0x0001, 0x1p-24f},  {0x03ff, 1023 * 0x1p-24f}, {0x0400, 0x1p-14f},
                                               {0xfc00, -kInf},     {0x3555, 0.333251953125f}};
  for (const auto& [raw, value] : halves) {
    Weights w(DType::fp16, 1);
    w.set(0, raw);
    EXPECT_EQ(w.widened()[0], value);
  }
  Weights w(DType::bf16, 1);
  w.set(0, 0xbfc0);
  EXPECT_EQ(w.widened()[0], -1.5f);
}

TEST_P(KernelsTest, DotRows) {
  for (const AttentionCase& c : kAttentionCases) {
    SCOPED_TRACE(testing::Message() << "nq " << c.nq << " n " << c.n << " d " << c.d);
    const Matrix q = Matrix::random(c.nq, c.d, c.d + 3);
    const Matrix rows = Matrix::random(c.n, c.d, c.d + 2);
    Matrix actual(c.nq, c.n, c.n + 1), expected = actual, magnitude = actual;
    const float scale = 0.125f;
    kernels().dot_rows(q.row(0), q.stride, c.nq, rows.row(0), rows.stride, c.n, c.d, scale, actual.row(0), actual.stride);
    reference_kernels().dot_rows(q.row(0), q.stride, c.nq, rows.row(0), rows.stride, c.n, c.d, scale, expected.row(0),
                                 expected.stride);
    const Matrix abs_q = absolute(q), abs_rows = absolute(rows);
    reference_kernels().dot_rows(abs_q.row(0), q.stride, c.nq, abs_rows.row(0), rows.stride, c.n, c.d, scale,
                                 magnitude.row(0), magnitude.stride);
    EXPECT_EQ(count_wrong(actual, expected, sum_tolerance(magnitude)), 0);
    EXPECT_TRUE(actual.gaps_poisoned());

    Matrix single(c.nq, c.n, c.n + 1);
    for (int64_t i = 0; i < c.nq; ++i) {
      for (int64_t j = 0; j < c.n; ++j) {
        kernels().dot_rows(q.row(i), q.stride, 1, rows.row(j), rows.stride, 1, c.d, scale, single.row(i) + j, 1);
      }
    }
    EXPECT_EQ(count_different_bits(actual, single), 0);
  }
}

TEST_P(KernelsTest, AxpyRows) {
  for (const AttentionCase& c : kAttentionCases) {
    SCOPED_TRACE(testing::Message() << "nq " << c.nq << " n " << c.n << " d " << c.d);
    const Matrix p = Matrix::random(c.nq, c.n, c.n + 2);
    const Matrix rows = Matrix::random(c.n, c.d, c.d + 3);
    const Matrix start = Matrix::random(c.nq, c.d, c.d + 1);
    Matrix actual = start, expected = start, magnitude = absolute(start);
    kernels().axpy_rows(p.row(0), p.stride, c.nq, rows.row(0), rows.stride, c.n, c.d, actual.row(0), actual.stride);
    reference_kernels().axpy_rows(p.row(0), p.stride, c.nq, rows.row(0), rows.stride, c.n, c.d, expected.row(0),
                                  expected.stride);
    const Matrix abs_p = absolute(p), abs_rows = absolute(rows);
    reference_kernels().axpy_rows(abs_p.row(0), p.stride, c.nq, abs_rows.row(0), rows.stride, c.n, c.d,
                                  magnitude.row(0), magnitude.stride);
    EXPECT_EQ(count_wrong(actual, expected, sum_tolerance(magnitude)), 0);
    EXPECT_TRUE(actual.gaps_poisoned());

    Matrix single = start;
    for (int64_t i = 0; i < c.nq; ++i) {
      for (int64_t j = 0; j < c.n; ++j) {
        kernels().axpy_rows(p.row(i) + j, 1, 1, rows.row(j), rows.stride, 1, c.d, single.row(i), c.d);
      }
    }
    EXPECT_EQ(count_different_bits(actual, single), 0);
  }
}

// Pages as the cache keeps them: min, then max, `gap` floats of poison behind.
Matrix random_pages(int64_t pages, int64_t d, int64_t gap) {
  Matrix meta = Matrix::random(pages, 2 * d, 2 * d + gap);
  for (int64_t p = 0; p < pages; ++p) {
    for (int64_t c = 0; c < d; ++c) {
      if (meta.at(p, c) > meta.at(p, d + c)) std::swap(meta.at(p, c), meta.at(p, d + c));
    }
  }
  return meta;
}

TEST_P(KernelsTest, PageScores) {
  for (const AttentionCase& c : kAttentionCases) {
    SCOPED_TRACE(testing::Message() << "nq " << c.nq << " pages " << c.n << " d " << c.d);
    const Matrix q = Matrix::random(c.nq, c.d, c.d + 3);
    const Matrix meta = random_pages(c.n, c.d, 5);
    Matrix actual(c.nq, c.n, c.n + 1), expected = actual, magnitude = actual;
    kernels().page_scores(q.row(0), q.stride, c.nq, meta.row(0), meta.stride, c.n, c.d, actual.row(0), actual.stride);
    reference_kernels().page_scores(q.row(0), q.stride, c.nq, meta.row(0), meta.stride, c.n, c.d, expected.row(0),
                                    expected.stride);
    const Matrix abs_q = absolute(q), abs_meta = absolute(meta);
    reference_kernels().page_scores(abs_q.row(0), q.stride, c.nq, abs_meta.row(0), meta.stride, c.n, c.d,
                                    magnitude.row(0), magnitude.stride);
    EXPECT_EQ(count_wrong(actual, expected, sum_tolerance(magnitude)), 0);
    EXPECT_TRUE(actual.gaps_poisoned());

    Matrix single(c.nq, c.n, c.n + 1);
    for (int64_t i = 0; i < c.nq; ++i) {
      for (int64_t p = 0; p < c.n; ++p) {
        kernels().page_scores(q.row(i), q.stride, 1, meta.row(p), meta.stride, 1, c.d, single.row(i) + p, 1);
      }
    }
    EXPECT_EQ(count_different_bits(actual, single), 0);
  }
}

TEST_P(KernelsTest, PageScoresOfNaNAreNaN) {
  const int64_t nq = 3, pages = 35, d = 37;
  for (const bool last_column : {false, true}) {
    const int64_t c = last_column ? d - 1 : 4;
    Matrix q = Matrix::random(nq, d, d);
    Matrix meta = random_pages(pages, d, 0);
    q.at(1, c) = kNaN;
    meta.at(7, c) = kNaN;
    meta.at(33, d + c) = kNaN;
    Matrix out(nq, pages, pages);
    kernels().page_scores(q.row(0), q.stride, nq, meta.row(0), meta.stride, pages, d, out.row(0), out.stride);
    for (int64_t i = 0; i < nq; ++i) {
      for (int64_t p = 0; p < pages; ++p) EXPECT_EQ(std::isnan(out.at(i, p)), i == 1 || p == 7 || p == 33) << i << ' ' << p;
    }
  }
}

double ulp_error(float actual, double expected) {
  const float nearest = std::max(static_cast<float>(std::fabs(expected)), std::numeric_limits<float>::min());
  const double ulp = std::nextafter(nearest, kInf) - nearest;
  return std::fabs(actual - expected) / ulp;
}

TEST_P(KernelsTest, ExpIsAccurateEverywhere) {
  std::vector<float> in = {0.0f};  // the maximum, so that exp_span subtracts nothing
  for (float x = -1e-8f; x > -110.0f; x = x * 1.00002f - 1e-9f) in.push_back(x);
  std::vector<float> out = in;
  float max = kPoison;
  const float sum = kernels().exp_span(out.data(), static_cast<int64_t>(out.size()), &max);
  EXPECT_EQ(max, 0.0f);
  EXPECT_EQ(out[0], 1.0f);
  double worst = 0, total = 0;
  for (size_t i = 0; i < in.size(); ++i) {
    const double expected = std::exp(static_cast<double>(in[i]));
    worst = std::max(worst, ulp_error(out[i], expected));
    total += expected;
  }
  EXPECT_LT(worst, 2.0);
  EXPECT_NEAR(sum, total, 2e-5 * total);
}

TEST_P(KernelsTest, ExpSpanLengthsAndNeighbours) {
  for (const int64_t n : {1, 2, 15, 16, 17, 31, 64, 100, 257, 2047}) {
    SCOPED_TRACE(n);
    const Matrix in = Matrix::random(1, n, n);
    Matrix actual(2, n, n + 4);
    std::copy_n(in.row(0), n, actual.row(0));
    Matrix expected = in;
    float max = kPoison, expected_max = kPoison;
    const float sum = kernels().exp_span(actual.row(0), n, &max);
    const float expected_sum = reference_kernels().exp_span(expected.row(0), n, &expected_max);
    EXPECT_EQ(max, expected_max);
    EXPECT_NEAR(sum, expected_sum, 2e-6 * expected_sum);
    for (int64_t j = 0; j < n; ++j) {
      const float distance = max - in.at(0, j);  // rounding it to fp32 costs distance / 2 ulp more
      EXPECT_LT(ulp_error(actual.at(0, j), expected.at(0, j)), 2.0f + distance / 2);
    }
    for (int64_t j = n; j < n + 4; ++j) EXPECT_EQ(bits_of(actual.data[static_cast<size_t>(j)]), bits_of(kPoison));

    std::vector<float> shifted(static_cast<size_t>(n) + 3);
    std::copy_n(in.row(0), n, shifted.data() + 3);
    EXPECT_EQ(bits_of(kernels().exp_span(shifted.data() + 3, n, &max)), bits_of(sum));
    EXPECT_EQ(std::memcmp(shifted.data() + 3, actual.row(0), static_cast<size_t>(n) * sizeof(float)), 0);
  }
}

TEST_P(KernelsTest, ExpSpanOfInfinitiesAndNaN) {
  for (const int64_t n : {1, 5, 16, 40}) {
    float max = kPoison;
    std::vector<float> s(static_cast<size_t>(n), -kInf);
    EXPECT_EQ(kernels().exp_span(s.data(), n, &max), 0.0f);
    EXPECT_EQ(max, -kInf);
    for (const float value : s) EXPECT_EQ(bits_of(value), 0u);

    for (int64_t at = 0; at < n; ++at) {
      s.assign(static_cast<size_t>(n), -kInf);
      s[static_cast<size_t>(at)] = -3.5f;
      EXPECT_EQ(kernels().exp_span(s.data(), n, &max), 1.0f);
      EXPECT_EQ(max, -3.5f);
      for (int64_t j = 0; j < n; ++j) EXPECT_EQ(s[static_cast<size_t>(j)], j == at ? 1.0f : 0.0f);

      s.assign(static_cast<size_t>(n), 2.0f);
      s[static_cast<size_t>(at)] = kNaN;
      EXPECT_TRUE(std::isnan(kernels().exp_span(s.data(), n, &max)));
      EXPECT_EQ(max, n == 1 ? -kInf : 2.0f);
      for (int64_t j = 0; j < n; ++j) EXPECT_EQ(std::isnan(s[static_cast<size_t>(j)]), j == at);
    }
  }
}

TEST_P(KernelsTest, RmsNorm) {
  for (const DType dtype : kDTypes) {
    for (const int64_t n : {1, 7, 16, 31, 64, 288, 1000, 4096}) {
      SCOPED_TRACE(testing::Message() << "n " << n << ' ' << dtype_name(dtype));
      const Matrix x = Matrix::random(1, n, n);
      const Weights w = Weights::random(dtype, n);
      Matrix actual(2, n, n + 4), expected(1, n, n);
      kernels().rmsnorm(x.row(0), w.at(0), dtype, n, 1e-5f, actual.row(0));
      reference_kernels().rmsnorm(x.row(0), w.at(0), dtype, n, 1e-5f, expected.row(0));
      for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(actual.at(0, i), expected.at(0, i), 2e-6 * std::fabs(expected.at(0, i)));
      for (int64_t i = n; i < n + 4; ++i) EXPECT_EQ(bits_of(actual.data[static_cast<size_t>(i)]), bits_of(kPoison));
    }
  }
}

TEST_P(KernelsTest, SiluMul) {
  std::vector<float> gates = {0.0f, -0.0f, 90.0f, -90.0f, 1e30f, -1e30f, kInf, -kInf, kNaN};
  for (int i = 0; i < 4000; ++i) gates.push_back(normal() * 30);
  for (const int64_t n : {int64_t{1}, int64_t{9}, int64_t{31}, static_cast<int64_t>(gates.size())}) {
    std::vector<float> actual(gates.begin(), gates.begin() + n), expected = actual, up(static_cast<size_t>(n));
    for (float& value : up) value = normal();
    actual.resize(static_cast<size_t>(n) + 4, kPoison);
    kernels().silu_mul(actual.data(), up.data(), n);
    reference_kernels().silu_mul(expected.data(), up.data(), n);
    for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
      if (std::isnan(expected[i])) {
        EXPECT_TRUE(std::isnan(actual[i])) << gates[i];
      } else if (std::isinf(expected[i])) {
        EXPECT_EQ(actual[i], expected[i]) << gates[i];
      } else {
        EXPECT_NEAR(actual[i], expected[i], 4e-7 * std::fabs(expected[i]) + 1e-36) << gates[i];
      }
    }
    for (size_t i = static_cast<size_t>(n); i < actual.size(); ++i) EXPECT_EQ(bits_of(actual[i]), bits_of(kPoison));
  }
}

// Sets QUEST_SIMD for one test.
class SimdVariable {
 public:
  explicit SimdVariable(const char* value) {
    if (const char* old = std::getenv("QUEST_SIMD")) old_ = std::make_unique<std::string>(old);
    if (value != nullptr) {
      setenv("QUEST_SIMD", value, 1);
    } else {
      unsetenv("QUEST_SIMD");
    }
  }
  ~SimdVariable() {
    if (old_) {
      setenv("QUEST_SIMD", old_->c_str(), 1);
    } else {
      unsetenv("QUEST_SIMD");
    }
  }

 private:
  std::unique_ptr<std::string> old_;
};

TEST(KernelsChoice, FastestLevelUnlessNamed) {
  const std::vector<const Kernels*> levels = available_kernels();
  ASSERT_FALSE(levels.empty());
  EXPECT_STREQ(levels.front()->name, "baseline");
  {
    const SimdVariable unset(nullptr);
    EXPECT_EQ(&active_kernels(), levels.back());
  }
  for (const Kernels* level : levels) {
    const SimdVariable named(level->name);
    EXPECT_EQ(&active_kernels(), level);
  }
}

TEST(KernelsChoice, UnknownNameListsTheLevels) {
  const SimdVariable wrong("sse9");
  try {
    active_kernels();
    FAIL() << "accepted sse9";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("sse9"), std::string::npos) << error.what();
    for (const Kernels* level : available_kernels()) {
      EXPECT_NE(std::string(error.what()).find(level->name), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace quest::cpu
