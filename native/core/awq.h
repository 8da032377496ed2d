// 4-bit weights as AutoAWQ stores them ("GEMM" packing), and the values they stand for.
//
// A matrix y = W x with W [n, k] and groups of `group` consecutive inputs is stored as three tensors, input-major:
//   qweight [k, n / 8]         int32: word c of row i holds W's columns of input i for the outputs 8 c .. 8 c + 7
//   qzeros  [k / group, n / 8] int32, packed alike
//   scales  [k / group, n]     fp16
// The nibble at bits 4 b of a word belongs to output 8 c + kAwqOutput[b]. The value is (q - zero) * scale, which fp32 holds
// exactly: four bits of difference times eleven bits of scale.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

#include "core/dtype.h"

namespace quest {

constexpr int kAwqOutput[8] = {0, 2, 4, 6, 1, 3, 5, 7};
// Where output i of a word has its nibble: the inverse of kAwqOutput.
constexpr int kAwqNibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};

// Words may lie at any address.
inline uint32_t awq_word(const void* words, int64_t index) {
  uint32_t w;
  std::memcpy(&w, static_cast<const unsigned char*>(words) + 4 * index, sizeof w);
  return w;
}
inline uint32_t awq_nibble(uint32_t word, int output) { return word >> (4 * kAwqNibble[output]) & 15u; }

// Throws Error E_QUANTIZATION unless the runtime has this combination: groups of 32, 64 or 128 that divide the columns, rows
// in whole words, fp16 scales.
void check_int4(const std::string& name, int64_t rows, int64_t cols, int64_t group, DType scales);

}  // namespace quest
