// The kernels as plain double-precision loops: what every SIMD level is tested against. Nothing here is fast.
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/kernels.h"
#include "cpu/kernels_levels.h"

namespace quest::cpu {
namespace {

float widen_fp16(uint16_t h) {
  const int exponent = (h >> 10) & 31;
  const int mantissa = h & 1023;
  const float sign = h & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) {
    return mantissa ? std::numeric_limits<float>::quiet_NaN() : sign * std::numeric_limits<float>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  return sign * std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
}

float weight_at(const void* w, DType dtype, int64_t index) {
  const auto* bytes = static_cast<const unsigned char*>(w) + index * static_cast<int64_t>(dtype_bytes(dtype));
  if (dtype == DType::fp32) {
    float value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, bytes, sizeof bits);
  if (dtype == DType::fp16) return widen_fp16(bits);
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

void gemm(const float* x, int64_t ldx, int64_t m, const void* w, DType w_dtype, int64_t n, int64_t k, float* y,
          int64_t ldy, bool add, float*) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t c = 0; c < k; ++c) sum += static_cast<double>(x[i * ldx + c]) * weight_at(w, w_dtype, j * k + c);
      y[i * ldy + j] = static_cast<float>(add ? y[i * ldy + j] + sum : sum);
    }
  }
}

void gemm_int4(const float* x, int64_t ldx, int64_t m, const Int4Rows& w, int64_t n, float* y, int64_t ldy, bool add, float*) {
  const int64_t chunks = (w.k + 127) / 128;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t c = 0; c < w.k; ++c) {
        uint32_t word;
        std::memcpy(&word, static_cast<const unsigned char*>(w.nibbles) + (j * chunks + c / 128) * 64 + c % 16 * 4, sizeof word);
        const uint32_t group = w.groups[j * (w.k / w.group) + c / w.group];
        const double q = word >> (c % 128 / 16 * 4) & 15u;
        sum += x[i * ldx + c] * (q - widen_fp16(static_cast<uint16_t>(group >> 16))) * widen_fp16(static_cast<uint16_t>(group));
      }
      y[i * ldy + j] = static_cast<float>(add ? y[i * ldy + j] + sum : sum);
    }
  }
}

int64_t gemm_scratch_floats(int64_t) { return 0; }

void dot_rows(const float* q, int64_t ldq, int64_t nq, const float* rows, int64_t ldr, int64_t n, int64_t d,
              float scale, float* s, int64_t lds) {
  for (int64_t i = 0; i < nq; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t c = 0; c < d; ++c) sum += static_cast<double>(q[i * ldq + c]) * rows[j * ldr + c];
      s[i * lds + j] = static_cast<float>(scale * sum);
    }
  }
}

void axpy_rows(const float* p, int64_t ldp, int64_t nq, const float* rows, int64_t ldr, int64_t n, int64_t d,
               float* acc, int64_t ldacc) {
  for (int64_t i = 0; i < nq; ++i) {
    for (int64_t c = 0; c < d; ++c) {
      double sum = acc[i * ldacc + c];
      for (int64_t j = 0; j < n; ++j) sum += static_cast<double>(p[i * ldp + j]) * rows[j * ldr + c];
      acc[i * ldacc + c] = static_cast<float>(sum);
    }
  }
}

float exp_span(float* s, int64_t n, float* max_out) {
  float max = -std::numeric_limits<float>::infinity();
  for (int64_t j = 0; j < n; ++j) max = s[j] > max ? s[j] : max;  // a NaN is skipped here and spoils the sum below
  *max_out = max;
  const double shift = std::isinf(max) && max < 0 ? 0.0 : static_cast<double>(max);
  double sum = 0;
  for (int64_t j = 0; j < n; ++j) {
    const double value = std::exp(s[j] - shift);
    sum += value;
    s[j] = static_cast<float>(value);
  }
  return static_cast<float>(sum);
}

double nan_keeping_max(double a, double b) { return std::isnan(a) || a > b ? a : b; }

void page_scores(const float* q, int64_t ldq, int64_t nq, const float* meta, int64_t ld_page, int64_t n_pages,
                 int64_t d, float* out, int64_t ldo) {
  for (int64_t i = 0; i < nq; ++i) {
    for (int64_t p = 0; p < n_pages; ++p) {
      const float* low = meta + p * ld_page;
      const float* high = low + d;
      double sum = 0;
      for (int64_t c = 0; c < d; ++c) {
        const double value = q[i * ldq + c];
        sum += nan_keeping_max(value * low[c], value * high[c]);
      }
      out[i * ldo + p] = static_cast<float>(sum);
    }
  }
}

void rmsnorm(const float* x, const void* w, DType w_dtype, int64_t n, float eps, float* out) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * x[i];
  const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(n) + eps);
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(x[i] * inverse * weight_at(w, w_dtype, i));
}

void silu_mul(float* gate, const float* up, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const double g = gate[i];
    gate[i] = static_cast<float>(g / (1.0 + std::exp(-g)) * up[i]);
  }
}

void widen(const void* w, DType w_dtype, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = weight_at(w, w_dtype, i);
}

}  // namespace

const Kernels& reference_kernels() {
  static const Kernels table = {"reference", gemm,     gemm_int4,   gemm_scratch_floats, dot_rows, axpy_rows,
                                exp_span,    page_scores, rmsnorm, silu_mul,   widen};
  return table;
}

}  // namespace quest::cpu
