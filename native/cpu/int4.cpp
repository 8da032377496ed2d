#include "cpu/int4.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "core/awq.h"

namespace quest::cpu {

namespace {

constexpr uint16_t kHalves[16] = {0x0000, 0x3c00, 0x4000, 0x4200, 0x4400, 0x4500, 0x4600, 0x4700,
                                  0x4800, 0x4880, 0x4900, 0x4980, 0x4a00, 0x4a80, 0x4b00, 0x4b80};  // 0..15 in fp16

}  // namespace

Int4Weights::Int4Weights(const Weights& weights, ThreadPool& pool) {
  for (const LayerWeights& l : weights.layers) {
    for (const Tensor* t : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down}) {
      if (t->int4()) matrices_.emplace(t->data, reshuffle(*t, pool));
    }
  }
}

Int4Weights::Matrix Int4Weights::reshuffle(const Tensor& t, ThreadPool& pool) {
  const int64_t n = t.rows, k = t.cols, groups = k / t.group, row_bytes = int4_row_bytes(k);
  const auto nibbles_bytes = static_cast<size_t>(n * row_bytes), bytes = nibbles_bytes + static_cast<size_t>(n * groups) * 4;
  Matrix m;
  m.memory.reset(static_cast<unsigned char*>(::operator new(bytes, std::align_val_t{64})));
  unsigned char* nibbles = m.memory.get();
  auto* pairs = reinterpret_cast<uint32_t*>(nibbles + nibbles_bytes);
  m.weight = {nibbles, t.dtype, n, k, pairs, static_cast<int>(t.group)};
  extra_bytes_ += static_cast<int64_t>(bytes) - static_cast<int64_t>(t.bytes());

  // Sixteen words of outputs at a time: their cache lines of the file are read whole.
  constexpr int64_t kWords = 16;
  const int64_t words = n / 8;
  pool.parallel_for((words + kWords - 1) / kWords, [&](int64_t task, int) {
    const int64_t first = task * kWords, last = std::min(words, first + kWords);
    std::memset(nibbles + first * 8 * row_bytes, 0, static_cast<size_t>((last - first) * 8 * row_bytes));
    for (int64_t i = 0; i < k; ++i) {
      const int64_t at = i / 128 * 64 + i % 16 * 4;
      const int shift = static_cast<int>(i % 128 / 16 * 4);
      for (int64_t c = first; c < last; ++c) {
        const uint32_t from = awq_word(t.data, i * words + c);
        for (int o = 0; o < 8; ++o) {
          auto* to = reinterpret_cast<uint32_t*>(nibbles + (c * 8 + o) * row_bytes + at);
          *to |= awq_nibble(from, o) << shift;
        }
      }
    }
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t c = first; c < last; ++c) {
        const uint32_t zeros = awq_word(t.zeros, g * words + c);
        for (int o = 0; o < 8; ++o) {
          uint16_t scale;
          std::memcpy(&scale, static_cast<const unsigned char*>(t.scales) + 2 * (g * n + c * 8 + o), sizeof scale);
          pairs[(c * 8 + o) * groups + g] = scale | static_cast<uint32_t>(kHalves[awq_nibble(zeros, o)]) << 16;
        }
      }
    }
  });
  return m;
}

Weight Int4Weights::of(const Tensor& t) const {
  if (!t.int4()) return {t.data, t.dtype, t.rows, t.cols};
  return matrices_.at(t.data).weight;
}

}  // namespace quest::cpu
