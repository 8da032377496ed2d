#include "cpu/rope.h"

#include <cmath>

namespace quest::cpu {

void rope_angles(const ModelSpec& spec, int64_t position, float* cos, float* sin) {
  for (size_t i = 0; i < spec.inv_freq.size(); ++i) {
    const float angle = static_cast<float>(position) * spec.inv_freq[i];
    cos[i] = static_cast<float>(std::cos(static_cast<double>(angle))) * spec.rope_attention_factor;
    sin[i] = static_cast<float>(std::sin(static_cast<double>(angle))) * spec.rope_attention_factor;
  }
}

void rotate(float* heads, int64_t n_heads, int64_t d, const float* cos, const float* sin) {
  const int64_t half = d / 2;
  for (int64_t h = 0; h < n_heads; ++h) {
    float* a = heads + h * d;
    float* b = a + half;
    for (int64_t i = 0; i < half; ++i) {
      const float x = a[i], y = b[i];
      a[i] = x * cos[i] - y * sin[i];
      b[i] = y * cos[i] + x * sin[i];
    }
  }
}

}  // namespace quest::cpu
