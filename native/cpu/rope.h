// Rotary position embedding, pairs (i, i + d / 2).
#pragma once

#include <cstdint>
#include <vector>

#include "core/model_spec.h"

namespace quest::cpu {

// cos and sin of one position, scaled by the attention factor. cos, sin [head_dim / 2]. The angle is rounded to fp32 before
// the functions, as transformers does, so that long contexts agree with it.
void rope_angles(const ModelSpec& spec, int64_t position, float* cos, float* sin);

// Rotates heads [n_heads, d] in place.
void rotate(float* heads, int64_t n_heads, int64_t d, const float* cos, const float* sin);

}  // namespace quest::cpu
