// From rows of a matrix to AutoAWQ's input-major tensors.
#pragma once

#include <cstdint>
#include <vector>

namespace quest::cpu {

// Values 0..15 [n, k] as words [k, n / 8].
std::vector<unsigned char> pack_words(const std::vector<uint8_t>& rows, int64_t n, int64_t k);
// fp16 [n, groups] as [groups, n].
std::vector<unsigned char> pack_scales(const std::vector<uint16_t>& rows, int64_t n, int64_t groups);

}  // namespace quest::cpu
