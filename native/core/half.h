// fp32 to fp16, rounded to nearest even, and back, without any hardware.
#pragma once

#include <cstdint>
#include <cstring>

namespace quest {

inline uint16_t fp16_from_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and above
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 leaves multiples of 2^-24 in the low bits, rounded by the addition itself.
    float positive;
    std::memcpy(&positive, &magnitude, sizeof positive);
    positive += 0.5f;
    uint32_t shifted;
    std::memcpy(&shifted, &positive, sizeof shifted);
    return sign | static_cast<uint16_t>(shifted - 0x3f000000u);
  }
  const uint32_t odd = magnitude >> 13 & 1u;
  return sign | static_cast<uint16_t>((magnitude + 0xfffu + odd - 0x38000000u) >> 13);
}

inline float fp16_to_float(uint16_t half) {
  // Moved into fp32's fields, the value is 2^-112 of the true one, subnormals included.
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fffu) << 13;
  float value;
  std::memcpy(&value, &magnitude, sizeof value);
  value *= 0x1p112f;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if ((half & 0x7c00u) == 0x7c00u) bits |= 0x7f800000u;
  bits |= static_cast<uint32_t>(half & 0x8000u) << 16;
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

}  // namespace quest
