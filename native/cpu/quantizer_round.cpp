// Rounding to four bits, and AutoAWQ's packing of the result.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/awq.h"
#include "core/half.h"
#include "cpu/quantizer.h"
#include "cpu/quantizer_pack.h"

namespace quest::cpu {

RoundedMatrix round_to_nearest(ThreadPool& pool, const std::vector<float>& w, int64_t n, int64_t k, int group) {
  const int64_t groups = k / group;
  RoundedMatrix m;
  m.q.resize(static_cast<size_t>(n * k));
  m.zeros.resize(static_cast<size_t>(n * groups));
  m.scales.resize(static_cast<size_t>(n * groups));
  pool.parallel_for(n, [&](int64_t row, int) {
    for (int64_t g = 0; g < groups; ++g) {
      const float* from = w.data() + row * k + g * group;
      // Zero is always among the values: a zero point cannot reach a group that lies to one side of it.
      const float low = std::min(0.0f, *std::min_element(from, from + group)), high = std::max(0.0f, *std::max_element(from, from + group));
      // The scale that will be read back: rounding it first keeps q right. Its least value is fp16's least normal number.
      const uint16_t half = fp16_from_float(std::max((high - low) / 15.0f, 0x1p-14f));
      const float scale = fp16_to_float(half);
      const float zero = std::clamp(-std::nearbyint(low / scale), 0.0f, 15.0f);
      for (int64_t i = 0; i < group; ++i) {
        m.q[static_cast<size_t>(row * k + g * group + i)] =
            static_cast<uint8_t>(std::clamp(std::nearbyint(from[i] / scale) + zero, 0.0f, 15.0f));
      }
      m.zeros[static_cast<size_t>(row * groups + g)] = static_cast<uint8_t>(zero);
      m.scales[static_cast<size_t>(row * groups + g)] = half;
    }
  });
  return m;
}

std::vector<float> rounded_values(ThreadPool& pool, const RoundedMatrix& m, int64_t n, int64_t k, int group) {
  std::vector<float> out(static_cast<size_t>(n * k));
  pool.parallel_for(n, [&](int64_t row, int) {
    for (int64_t g = row * (k / group); g < (row + 1) * (k / group); ++g) {
      const float scale = fp16_to_float(m.scales[static_cast<size_t>(g)]);
      const int zero = m.zeros[static_cast<size_t>(g)];
      for (int64_t i = g * group; i < (g + 1) * group; ++i) {
        out[static_cast<size_t>(i)] = static_cast<float>(m.q[static_cast<size_t>(i)] - zero) * scale;
      }
    }
  });
  return out;
}

std::vector<unsigned char> pack_words(const std::vector<uint8_t>& rows, int64_t n, int64_t k) {
  std::vector<unsigned char> out(static_cast<size_t>(k * n / 2));
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t c = 0; c < n / 8; ++c) {
      uint32_t word = 0;
      for (int b = 0; b < 8; ++b) word |= static_cast<uint32_t>(rows[static_cast<size_t>((c * 8 + kAwqOutput[b]) * k + i)]) << (4 * b);
      std::memcpy(out.data() + (i * (n / 8) + c) * 4, &word, 4);
    }
  }
  return out;
}

std::vector<unsigned char> pack_scales(const std::vector<uint16_t>& rows, int64_t n, int64_t groups) {
  std::vector<unsigned char> out(static_cast<size_t>(groups * n * 2));
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t j = 0; j < n; ++j) std::memcpy(out.data() + (g * n + j) * 2, &rows[static_cast<size_t>(j * groups + g)], 2);
  }
  return out;
}

}  // namespace quest::cpu
