// AVX2 with FMA and F16C: 8 lanes, 16 registers; fp32 tails by masks, 16-bit tails through a small copy.
//
// The target is set for the functions of this file, after all headers, and not for the file: see kernels_avx512.cpp.
#include "cpu/kernels_levels.h"

#if QUEST_X86_LEVELS
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace quest::cpu {
namespace avx2 {
namespace {

using V = __m256;
constexpr int kLanes = 8;
constexpr int kTileRows = 4;
constexpr int kTileColumns = 3;
constexpr int kFewColumns1 = 8;
constexpr int kFewColumns2 = 4;
constexpr int kFewColumns3 = 4;
constexpr int kFewColumns4 = 3;
constexpr int kKeyVectors = 2;
constexpr int kQueryTile = 4;
constexpr int kAxpyRows = 6;
constexpr int kAxpyVectors = 2;

inline __m256i first(int count) {
  alignas(32) static const int32_t ones[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(ones + kLanes - count));
}

inline V vzero() { return _mm256_setzero_ps(); }
inline V vset(float a) { return _mm256_set1_ps(a); }
inline V vload(const float* p) { return _mm256_loadu_ps(p); }
inline V vload_first(const float* p, int count) { return _mm256_maskload_ps(p, first(count)); }
inline void vstore(float* p, V a) { _mm256_storeu_ps(p, a); }
inline void vstore_first(float* p, int count, V a) { _mm256_maskstore_ps(p, first(count), a); }
inline V vadd(V a, V b) { return _mm256_add_ps(a, b); }
inline V vsub(V a, V b) { return _mm256_sub_ps(a, b); }
inline V vmul(V a, V b) { return _mm256_mul_ps(a, b); }
inline V vdiv(V a, V b) { return _mm256_div_ps(a, b); }
inline V vfma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
inline V vmin(V a, V b) { return _mm256_min_ps(a, b); }
inline V vmax(V a, V b) { return _mm256_max_ps(a, b); }
inline V vmax_nan(V a, V b) {
  return _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}

// In two steps, since 2^n itself leaves the range of fp32 for n below -126 and for 128.
inline V vexp2_scale(V p, V n) {
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i scale0 = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i scale1 = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(scale0)), _mm256_castsi256_ps(scale1));
}

template <DType T>
inline V vload_weights(const unsigned char* p) {
  if constexpr (T == DType::fp32) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
  } else {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    if constexpr (T == DType::fp16) return _mm256_cvtph_ps(bits);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
}

template <DType T>
inline V vload_weights_first(const unsigned char* p, int count) {
  alignas(32) unsigned char copy[32] = {};
  __builtin_memcpy(copy, p, static_cast<size_t>(count) * (T == DType::fp32 ? 4 : 2));
  return vload_weights<T>(copy);
}

struct Int4Table {
  V scale, zero;
};
inline Int4Table vint4_table(uint32_t scale_and_zero) {
  const __m128 pair = _mm_cvtph_ps(_mm_cvtsi32_si128(static_cast<int>(scale_and_zero)));
  return {_mm256_broadcastss_ps(pair), _mm256_broadcastss_ps(_mm_movehdup_ps(pair))};
}
inline V vint4(const unsigned char* chunk, int step, const Int4Table& table) {
  const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(chunk + step % 2 * 32));
  const __m256i nibbles = _mm256_and_si256(_mm256_srl_epi32(words, _mm_cvtsi32_si128(step / 2 * 4)), _mm256_set1_epi32(15));
  return _mm256_mul_ps(_mm256_sub_ps(_mm256_cvtepi32_ps(nibbles), table.zero), table.scale);
}

inline V vreduce(const V (&a)[kLanes]) {
  V quads[2];
#pragma GCC unroll 2
  for (int g = 0; g < 2; ++g) {
    const V* b = a + 4 * g;
    const V low = vadd(_mm256_unpacklo_ps(b[0], b[1]), _mm256_unpackhi_ps(b[0], b[1]));
    const V high = vadd(_mm256_unpacklo_ps(b[2], b[3]), _mm256_unpackhi_ps(b[2], b[3]));
    quads[g] = vadd(_mm256_shuffle_ps(low, high, 0x44), _mm256_shuffle_ps(low, high, 0xEE));
  }
  return vadd(_mm256_permute2f128_ps(quads[0], quads[1], 0x20), _mm256_permute2f128_ps(quads[0], quads[1], 0x31));
}

inline void vtranspose(V (&a)[kLanes]) {
  V b[kLanes];
#pragma GCC unroll 2
  for (int g = 0; g < 2; ++g) {
    const V* r = a + 4 * g;
    const V low01 = _mm256_unpacklo_ps(r[0], r[1]);
    const V high01 = _mm256_unpackhi_ps(r[0], r[1]);
    const V low23 = _mm256_unpacklo_ps(r[2], r[3]);
    const V high23 = _mm256_unpackhi_ps(r[2], r[3]);
    b[4 * g + 0] = _mm256_shuffle_ps(low01, low23, 0x44);
    b[4 * g + 1] = _mm256_shuffle_ps(low01, low23, 0xEE);
    b[4 * g + 2] = _mm256_shuffle_ps(high01, high23, 0x44);
    b[4 * g + 3] = _mm256_shuffle_ps(high01, high23, 0xEE);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm256_permute2f128_ps(b[i], b[4 + i], 0x20);
    a[4 + i] = _mm256_permute2f128_ps(b[i], b[4 + i], 0x31);
  }
}

#include "cpu/kernels_body.inc"

}  // namespace
}  // namespace avx2

const Kernels& avx2_kernels() {
  static const Kernels table = avx2::make_table("avx2");
  return table;
}

}  // namespace quest::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // QUEST_X86_LEVELS
