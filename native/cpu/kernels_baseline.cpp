// What every machine can run: 4 lanes of the compiler's own vectors (SSE2 on x86-64, NEON on aarch64, anything elsewhere).
// Multiply then add where the machine has no fused multiply-add in its base instruction set.
#include <cstring>

#include "cpu/kernels_levels.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace quest::cpu {
namespace baseline {
namespace {

typedef float V __attribute__((vector_size(16)));
typedef int32_t VI __attribute__((vector_size(16)));
constexpr int kLanes = 4;
constexpr int kTileRows = 4;
constexpr int kTileColumns = 3;
constexpr int kFewColumns1 = 8;
constexpr int kFewColumns2 = 4;
constexpr int kFewColumns3 = 4;
constexpr int kFewColumns4 = 3;
constexpr int kKeyVectors = 2;
constexpr int kQueryTile = 4;
constexpr int kAxpyRows = 4;
constexpr int kAxpyVectors = 2;

#if defined(__clang__)
#define QUEST_SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define QUEST_SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, VI{i, j, k, l})
#endif

inline V vset(float a) { return V{a, a, a, a}; }
inline V vzero() { return vset(0.0f); }
inline V vload(const float* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void vstore(float* p, V a) { std::memcpy(p, &a, sizeof a); }
inline V vload_first(const float* p, int count) {
  float copy[kLanes] = {};
  for (int i = 0; i < count; ++i) copy[i] = p[i];
  return vload(copy);
}
inline void vstore_first(float* p, int count, V a) {
  for (int i = 0; i < count; ++i) p[i] = a[i];
}
inline V vadd(V a, V b) { return a + b; }
inline V vsub(V a, V b) { return a - b; }
inline V vmul(V a, V b) { return a * b; }
inline V vdiv(V a, V b) { return a / b; }
#if defined(__aarch64__)
inline V vfma(V a, V b, V c) { return vfmaq_f32(c, a, b); }
#else
inline V vfma(V a, V b, V c) { return a * b + c; }
#endif
inline V choose(VI mask, V a, V b) { return (V)((mask & (VI)a) | (~mask & (VI)b)); }
inline V vmin(V a, V b) { return choose(a < b, a, b); }
inline V vmax(V a, V b) { return choose(a > b, a, b); }
inline V vmax_nan(V a, V b) { return choose((a > b) | (a != a), a, b); }

// In two steps, since 2^n itself leaves the range of fp32 for n below -126 and for 128.
inline V vexp2_scale(V p, V n) {
  const V shifter = vset(12582912.0f);  // 1.5 * 2^23: the low bits of n + shifter are n
  const VI whole = (VI)(n + shifter) - (VI)shifter;
  const VI half = whole >> 1;
  return p * (V)((half + 127) << 23) * (V)((whole - half + 127) << 23);
}

template <DType T>
inline V vload_weights(const unsigned char* p) {
  if constexpr (T == DType::fp32) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
  } else {
    uint16_t halves[kLanes];
    std::memcpy(halves, p, sizeof halves);
    const VI bits = {halves[0], halves[1], halves[2], halves[3]};
    if constexpr (T == DType::bf16) return (V)(bits << 16);
    // Moved into fp32's fields, the value is 2^-112 of the true one, subnormals included; fp16's inf and NaN, now large
    // numbers, get the exponent of fp32's.
    const VI magnitude = bits & 0x7fff;
    const V value = (V)(magnitude << 13) * vset(0x1p112f);
    const VI special = (magnitude > 0x7bff) & 0x7f800000;
    return (V)((VI)value | special | ((bits & 0x8000) << 16));
  }
}

template <DType T>
inline V vload_weights_first(const unsigned char* p, int count) {
  unsigned char copy[kLanes * sizeof(float)] = {};
  std::memcpy(copy, p, static_cast<size_t>(count) * (T == DType::fp32 ? 4 : 2));
  return vload_weights<T>(copy);
}

struct Int4Table {
  V scale, zero;
};
inline Int4Table vint4_table(uint32_t scale_and_zero) {
  unsigned char halves[8] = {};
  std::memcpy(halves, &scale_and_zero, sizeof scale_and_zero);
  const V pair = vload_weights<DType::fp16>(halves);
  return {vset(pair[0]), vset(pair[1])};
}
inline V vint4(const unsigned char* chunk, int step, const Int4Table& table) {
  VI words;
  std::memcpy(&words, chunk + step % 4 * 16, sizeof words);
  const VI nibbles = words >> (step / 4 * 4) & 15;
  const V value = {static_cast<float>(nibbles[0]), static_cast<float>(nibbles[1]), static_cast<float>(nibbles[2]),
                   static_cast<float>(nibbles[3])};
  return (value - table.zero) * table.scale;
}

inline V vreduce(const V (&a)[kLanes]) {
  const V low = QUEST_SHUFFLE(a[0], a[1], 0, 4, 1, 5) + QUEST_SHUFFLE(a[0], a[1], 2, 6, 3, 7);
  const V high = QUEST_SHUFFLE(a[2], a[3], 0, 4, 1, 5) + QUEST_SHUFFLE(a[2], a[3], 2, 6, 3, 7);
  return QUEST_SHUFFLE(low, high, 0, 1, 4, 5) + QUEST_SHUFFLE(low, high, 2, 3, 6, 7);
}

inline void vtranspose(V (&a)[kLanes]) {
  const V low01 = QUEST_SHUFFLE(a[0], a[1], 0, 4, 1, 5);
  const V high01 = QUEST_SHUFFLE(a[0], a[1], 2, 6, 3, 7);
  const V low23 = QUEST_SHUFFLE(a[2], a[3], 0, 4, 1, 5);
  const V high23 = QUEST_SHUFFLE(a[2], a[3], 2, 6, 3, 7);
  a[0] = QUEST_SHUFFLE(low01, low23, 0, 1, 4, 5);
  a[1] = QUEST_SHUFFLE(low01, low23, 2, 3, 6, 7);
  a[2] = QUEST_SHUFFLE(high01, high23, 0, 1, 4, 5);
  a[3] = QUEST_SHUFFLE(high01, high23, 2, 3, 6, 7);
}

#include "cpu/kernels_body.inc"

}  // namespace
}  // namespace baseline

const Kernels& baseline_kernels() {
  static const Kernels table = baseline::make_table("baseline");
  return table;
}

}  // namespace quest::cpu
