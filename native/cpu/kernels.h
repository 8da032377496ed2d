// The CPU kernels: one table of functions per SIMD level, chosen at run time.
//
// Invariance, on which the rest of the runtime rests (parallel scoring == sequential decode, results independent of
// batch size and thread count, all bit for bit): every output element is computed by one thread with a summation order
// that depends only on the reduced length, never on how many rows, columns, keys or queries the call holds.
// Different SIMD levels may differ from each other in the last bits.
//
// Weight pointers may be unaligned to anything (files place tensors where they like).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace quest::cpu {

// 4-bit weights [n, k] as the kernels read them. A row is cut into chunks of 128, filled up with zeros; word l of a chunk's 16 holds
// at bits 4 i the weight 16 i + l. A weight's value is (nibble - zero) * scale.
struct Int4Rows {
  const void* nibbles;     // [n, ceil(k / 128)] chunks of 64 bytes, aligned to 64
  const uint32_t* groups;  // [n, k / group]: scale as fp16 in the low half, zero as fp16 in the high half
  int64_t k;
  int group;  // 32, 64 or 128, divides k
};

inline int64_t int4_row_bytes(int64_t k) { return (k + 127) / 128 * 64; }

struct Kernels {
  const char* name;  // "baseline", "avx2", "avx512"

  // y[i, j] (+)= sum_k x[i, k] * w[j, k], i < m, j < n. `add` accumulates onto y (after the sum).
  // x [m, ldx >= k], w [n, k] dense of w_dtype, y [m, ldy >= n]. scratch: gemm_scratch_floats(k) floats, private to the thread.
  void (*gemm)(const float* x, int64_t ldx, int64_t m, const void* w, DType w_dtype, int64_t n, int64_t k, float* y,
               int64_t ldy, bool add, float* scratch);
  // The same with 4-bit weights: the bits that gemm gives for their values in fp32. The first n rows of w.
  void (*gemm_int4)(const float* x, int64_t ldx, int64_t m, const Int4Rows& w, int64_t n, float* y, int64_t ldy, bool add, float* scratch);
  int64_t (*gemm_scratch_floats)(int64_t k);

  // s[i, j] = scale * dot(q[i], rows[j]), i < nq, j < n.  q [nq, ldq], rows [n, ldr], s [nq, lds].
  void (*dot_rows)(const float* q, int64_t ldq, int64_t nq, const float* rows, int64_t ldr, int64_t n, int64_t d,
                   float scale, float* s, int64_t lds);

  // acc[i] += sum_j p[i, j] * rows[j], j ascending, one fused multiply-add per element and j.
  // p [nq, ldp], rows [n, ldr], acc [nq, ldacc], d columns.
  void (*axpy_rows)(const float* p, int64_t ldp, int64_t nq, const float* rows, int64_t ldr, int64_t n, int64_t d,
                    float* acc, int64_t ldacc);

  // s[j] = exp(s[j] - max), j < n, in place; returns the sum and stores the maximum. n >= 1. All -inf gives sum 0, zeros.
  float (*exp_span)(float* s, int64_t n, float* max_out);

  // out[i, p] = sum_c max(q[i, c] * min[p, c], q[i, c] * max[p, c]); meta [n_pages, ld_page], min first, then max (d each).
  void (*page_scores)(const float* q, int64_t ldq, int64_t nq, const float* meta, int64_t ld_page, int64_t n_pages,
                      int64_t d, float* out, int64_t ldo);

  // out = x / rms(x) * w over n elements; w of w_dtype.
  void (*rmsnorm)(const float* x, const void* w, DType w_dtype, int64_t n, float eps, float* out);

  // gate = silu(gate) * up, n elements.
  void (*silu_mul)(float* gate, const float* up, int64_t n);

  // out[i] = w[i] widened to fp32 (embedding rows, tests).
  void (*widen)(const void* w, DType w_dtype, int64_t n, float* out);
};

// Levels compiled in and supported by this CPU, slowest first; never empty.
std::vector<const Kernels*> available_kernels();

// The fastest available level, or the one named by the environment variable QUEST_SIMD.
// Throws std::runtime_error naming the levels when QUEST_SIMD names none of them.
const Kernels& active_kernels();

// Plain double-precision loops with the same signatures, for tests.
const Kernels& reference_kernels();

}  // namespace quest::cpu
