// Kernels of decode attention written as plainly as possible, with the parameters of the fast ones: what large shapes are
// checked against on the GPU itself. Double precision, one thread per result, no care for speed.
#pragma once

#include "cuda/kernels.h"

namespace quest::cuda::test {

void naive_estimate(const EstimateParams&, const Launch&);
void naive_top_k(const TopKParams&, const Launch&);
// Dense rows and rows that select pages; no norms, no logits.
void naive_decode_attention(const DecodeParams&, const Launch&);
// Makes bounds of any numbers: the smaller of each pair becomes the minimum.
void sort_bounds(void* metadata, int64_t pages, int head_dim);  // [pages, 2, head_dim] fp16

}  // namespace quest::cuda::test
