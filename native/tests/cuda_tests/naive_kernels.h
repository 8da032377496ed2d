// Every kernel written as plainly as possible, with the parameters of the fast one: what the tests hold the fast ones against.
// Double precision, one thread per result, no care for speed. (fill_random and int4_random, whose numbers have no definition but
// their distribution, and read_all, which computes nothing, have none.)
#pragma once

#include "cuda/int4.h"
#include "cuda/kernels.h"

namespace quest::cuda::test {

// naive_rows.cu
void naive_embed(const EmbedParams&, const Launch&);
void naive_rmsnorm(const NormParams&, const Launch&);
void naive_silu_mul(const SiluMulParams&, const Launch&);
void naive_argmax(const ArgmaxParams&, const Launch&);
void naive_negative_log_likelihood(const NllParams&, const Launch&);

// naive_matrices.cu
void naive_gemv(const GemvParams&, const Launch&);  // any number of rows
void naive_gemm(const GemmParams&, const Launch&);
void naive_int4_gemv(const Int4GemvParams&, const Launch&);
void naive_int4_gemv_chain(const Int4GemvChainParams&, const Launch&);
void naive_int4_pack(const Int4PackParams&, const Launch&);
void naive_int4_unpack(const Int4UnpackParams&, const Launch&);

// naive_cache.cu
void naive_rope_append(const AppendParams&, const Launch&);
void naive_page_bounds(const PageBoundsParams&, const Launch&);
// Makes bounds of any numbers: the smaller of each pair becomes the minimum.
void sort_bounds(void* metadata, int64_t pages, int head_dim);  // [pages, 2, head_dim] fp16

// naive_attention.cu
void naive_prefill_attention(const PrefillParams&, const Launch&);
void naive_decode_attention(const DecodeParams&, const Launch&);
void naive_list_attention(const ListAttentionParams&, const Launch&);
void naive_token_logits(const TokenLogitsParams&, const Launch&);
void naive_column_sums(const ColumnSumsParams&, const Launch&);

// naive_selection.cu
void naive_estimate(const EstimateParams&, const Launch&);
void naive_top_k(const TopKParams&, const Launch&);
void naive_evict_kept(const EvictParams&, const Launch&);
void naive_recall(const RecallParams&, const Launch&);

}  // namespace quest::cuda::test
