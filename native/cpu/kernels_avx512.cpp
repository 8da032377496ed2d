// AVX-512 (F, BW, VL, DQ) with FMA and F16C: 16 lanes, 32 registers, tails by masks.
//
// The target is set for the functions of this file, after all headers, and not for the file: an inline library function
// compiled with -mavx512f might be the copy that the linker keeps, and crash an older CPU.
#include "cpu/kernels_levels.h"

#if QUEST_X86_LEVELS
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own header trips these on every unmasked intrinsic (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")
#endif

namespace quest::cpu {
namespace avx512 {
namespace {

using V = __m512;
constexpr int kLanes = 16;
constexpr int kTileRows = 4;
constexpr int kTileColumns = 6;
constexpr int kFewColumns1 = 8;
constexpr int kFewColumns2 = 8;
constexpr int kFewColumns3 = 8;
constexpr int kFewColumns4 = 6;
constexpr int kKeyVectors = 1;
constexpr int kQueryTile = 16;
constexpr int kAxpyRows = 6;
constexpr int kAxpyVectors = 4;

inline __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1u); }

inline V vzero() { return _mm512_setzero_ps(); }
inline V vset(float a) { return _mm512_set1_ps(a); }
inline V vload(const float* p) { return _mm512_loadu_ps(p); }
inline V vload_first(const float* p, int count) { return _mm512_maskz_loadu_ps(first(count), p); }
inline void vstore(float* p, V a) { _mm512_storeu_ps(p, a); }
inline void vstore_first(float* p, int count, V a) { _mm512_mask_storeu_ps(p, first(count), a); }
inline V vadd(V a, V b) { return _mm512_add_ps(a, b); }
inline V vsub(V a, V b) { return _mm512_sub_ps(a, b); }
inline V vmul(V a, V b) { return _mm512_mul_ps(a, b); }
inline V vdiv(V a, V b) { return _mm512_div_ps(a, b); }
inline V vfma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
inline V vmin(V a, V b) { return _mm512_min_ps(a, b); }
inline V vmax(V a, V b) { return _mm512_max_ps(a, b); }
inline V vmax_nan(V a, V b) {
  return _mm512_mask_mov_ps(_mm512_max_ps(a, b), _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a);
}
inline V vexp2_scale(V p, V n) { return _mm512_scalef_ps(p, n); }

template <DType T>
inline V widen_bits(__m256i bits) {
  if constexpr (T == DType::fp16) return _mm512_cvtph_ps(bits);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

template <DType T>
inline V vload_weights(const unsigned char* p) {
  if constexpr (T == DType::fp32) {
    return _mm512_loadu_ps(p);
  } else {
    return widen_bits<T>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
}

template <DType T>
inline V vload_weights_first(const unsigned char* p, int count) {
  if constexpr (T == DType::fp32) {
    return _mm512_maskz_loadu_ps(first(count), p);
  } else {
    return widen_bits<T>(_mm256_maskz_loadu_epi16(first(count), p));
  }
}

// The sixteen values that a nibble can have; permutexvar looks at the lowest four bits of an index only.
using Int4Table = V;
inline Int4Table vint4_table(uint32_t scale_and_zero) {
  const __m128 pair = _mm_cvtph_ps(_mm_cvtsi32_si128(static_cast<int>(scale_and_zero)));
  const V scale = _mm512_broadcastss_ps(pair), zero = _mm512_broadcastss_ps(_mm_movehdup_ps(pair));
  const V nibbles = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_mul_ps(_mm512_sub_ps(nibbles, zero), scale);
}
inline V vint4(const unsigned char* chunk, int step, Int4Table table) {
  const __m512i words = _mm512_loadu_si512(chunk);
  return _mm512_permutexvar_ps(_mm512_srl_epi32(words, _mm_cvtsi32_si128(4 * step)), table);
}

inline V vreduce(const V (&a)[kLanes]) {
  V quads[4];
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    const V* b = a + 4 * g;
    const V low = vadd(_mm512_unpacklo_ps(b[0], b[1]), _mm512_unpackhi_ps(b[0], b[1]));
    const V high = vadd(_mm512_unpacklo_ps(b[2], b[3]), _mm512_unpackhi_ps(b[2], b[3]));
    quads[g] = vadd(_mm512_shuffle_ps(low, high, 0x44), _mm512_shuffle_ps(low, high, 0xEE));
  }
  const V low = vadd(_mm512_shuffle_f32x4(quads[0], quads[1], 0x44), _mm512_shuffle_f32x4(quads[0], quads[1], 0xEE));
  const V high = vadd(_mm512_shuffle_f32x4(quads[2], quads[3], 0x44), _mm512_shuffle_f32x4(quads[2], quads[3], 0xEE));
  return vadd(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xDD));
}

inline void vtranspose(V (&a)[kLanes]) {
  V b[kLanes];
  // 4 x 4 inside each 128 bits: b[4 g + i] holds column i (+ 4 per 128 bits) of rows 4 g .. 4 g + 3.
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    const V* r = a + 4 * g;
    const V low01 = _mm512_unpacklo_ps(r[0], r[1]);
    const V high01 = _mm512_unpackhi_ps(r[0], r[1]);
    const V low23 = _mm512_unpacklo_ps(r[2], r[3]);
    const V high23 = _mm512_unpackhi_ps(r[2], r[3]);
    b[4 * g + 0] = _mm512_shuffle_ps(low01, low23, 0x44);
    b[4 * g + 1] = _mm512_shuffle_ps(low01, low23, 0xEE);
    b[4 * g + 2] = _mm512_shuffle_ps(high01, high23, 0x44);
    b[4 * g + 3] = _mm512_shuffle_ps(high01, high23, 0xEE);
  }
  // Then 4 x 4 of 128-bit pieces.
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const V low01 = _mm512_shuffle_f32x4(b[i], b[4 + i], 0x44);
    const V high01 = _mm512_shuffle_f32x4(b[i], b[4 + i], 0xEE);
    const V low23 = _mm512_shuffle_f32x4(b[8 + i], b[12 + i], 0x44);
    const V high23 = _mm512_shuffle_f32x4(b[8 + i], b[12 + i], 0xEE);
    a[i] = _mm512_shuffle_f32x4(low01, low23, 0x88);
    a[4 + i] = _mm512_shuffle_f32x4(low01, low23, 0xDD);
    a[8 + i] = _mm512_shuffle_f32x4(high01, high23, 0x88);
    a[12 + i] = _mm512_shuffle_f32x4(high01, high23, 0xDD);
  }
}

#include "cpu/kernels_body.inc"

}  // namespace
}  // namespace avx512

const Kernels& avx512_kernels() {
  static const Kernels table = avx512::make_table("avx512");
  return table;
}

}  // namespace quest::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // QUEST_X86_LEVELS
