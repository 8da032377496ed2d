// What the machine can do at most: loops that only read, or only multiply and add. Written apart from the kernels, so
// that a slow kernel cannot lower its own yardstick.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace quest::cpu {

constexpr int kPeakChains = 12;  // independent accumulators: more than latency x issue width of any core we know

// count is a multiple of 64. Unsigned, so that the compiler may sum in any order and vectorise.
inline uint64_t sum_words(const uint64_t* words, size_t count) {
  uint64_t sums[16] = {};
  for (size_t i = 0; i < count; i += 16) {
    for (size_t l = 0; l < 16; ++l) sums[l] += words[i + l];
  }
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  return total;
}

typedef float PeakVector __attribute__((vector_size(16)));

inline float run_fma_baseline(int64_t rounds) {
  PeakVector sums[kPeakChains] = {};
  PeakVector factor = {0.5f, 0.5f, 0.5f, 0.5f};
  asm volatile("" : "+m"(factor));
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kPeakChains; ++c) sums[c] = sums[c] * factor + factor;
  }
  float total = 0;
  for (const PeakVector& sum : sums) total += sum[0];
  return total;
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) inline float run_fma_avx2(int64_t rounds) {
  __m256 sums[kPeakChains];
  for (__m256& sum : sums) sum = _mm256_setzero_ps();
  const __m256 factor = _mm256_set1_ps(0.5f);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kPeakChains; ++c) sums[c] = _mm256_fmadd_ps(sums[c], factor, factor);
  }
  float total = 0;
  for (const __m256& sum : sums) total += _mm256_cvtss_f32(sum);
  return total;
}

__attribute__((target("avx512f"))) inline float run_fma_avx512(int64_t rounds) {
  __m512 sums[kPeakChains];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  const __m512 factor = _mm512_set1_ps(0.5f);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kPeakChains; ++c) sums[c] = _mm512_fmadd_ps(sums[c], factor, factor);
  }
  float total = 0;
  for (const __m512& sum : sums) total += _mm512_cvtss_f32(sum);
  return total;
}
#endif

// The level is one that active_kernels() returned, so this CPU runs it.
inline float run_fma(const std::string& level, int64_t rounds) {
#if defined(__x86_64__)
  if (level == "avx2") return run_fma_avx2(rounds);
  if (level == "avx512") return run_fma_avx512(rounds);
#endif
  return run_fma_baseline(rounds);
}

inline double fma_flops_per_round(const std::string& level) {
  const int lanes = level == "avx512" ? 16 : level == "avx2" ? 8 : 4;
  return 2.0 * lanes * kPeakChains;
}

}  // namespace quest::cpu
