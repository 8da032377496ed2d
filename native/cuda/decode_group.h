// Decode attention on tensor cores for grouped heads (decode_group.cu); decode_attention chooses it.
#pragma once

#include "cuda/kernels.h"

namespace quest::cuda {

// Groups of 2 to 8 heads that share lists, pages of at least 16 tokens, head dims 64 and 128.
bool decode_group_applies(const DecodeShape&);
int decode_group_splits(const DecodeShape&, int n_rows, int sms);
// Rows that read everything or select pages; the others are left alone.
void decode_group(const DecodeParams&, const Launch&);

}  // namespace quest::cuda
