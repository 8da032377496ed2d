// Every kernel's parameters and launcher. Kernels know pointers and these structs, nothing of models or executors.
//
// "half" is fp16 or bf16, one of them throughout a model; sums are fp32 everywhere. Strides count elements.
// What each kernel supports:
//   head_dim 32, 64, 96, 128; query heads per KV head 1..8; page_size a power of two from 1 to 128; vectors of a multiple of 8.
#pragma once

#include <cstdint>

#include "cuda/launch.h"

namespace quest::cuda {

// Rows of activations -----------------------------------------------------------------------------------------------

struct EmbedParams {
  const int32_t* ids;  // [rows]
  const void* table;   // [vocab, width] half
  float* x;            // [rows, width]
  int rows, width;
  Half type;
};
void embed(const EmbedParams&, const Launch&);

struct NormParams {
  const float* x;         // [rows, width] residual stream
  const int32_t* gather;  // [rows] rows of x to take, or null for 0, 1, 2, ...
  const float* weight;    // [width]
  void* out;              // [rows, width] half
  int rows, width;
  float eps;
  Half type;
};
void rmsnorm(const NormParams&, const Launch&);

struct SiluMulParams {
  const void* gate_up;  // [rows, 2 * width] half, gate then up
  void* out;            // [rows, width] half
  int64_t rows;
  int width;
  Half type;
};
void silu_mul(const SiluMulParams&, const Launch&);

// Matrix products: out[r, n] (+)= sum_k in[r, k] * weight[n, k] --------------------------------------------------------

enum class Epilogue : uint8_t {
  half,      // out half
  fp32,      // out fp32
  residual,  // out fp32, added to what is there
  silu_mul,  // out half [rows, n / 2] = silu(first half of the columns) * second half
};

constexpr int kGemvRows = 8;

struct GemvParams {
  const void* in;            // [rows, k] half, or null with a norm
  const float* norm_x;       // [rows, k] residual stream: in = rmsnorm(norm_x) * norm_weight, or null
  const float* norm_weight;  // [k]
  float eps;
  const void* weight;  // [n, k] half
  void* out;           // [rows, n], see Epilogue
  int rows, n, k;      // rows <= kGemvRows
  Epilogue epilogue;
  Half type;
  int sms;  // multiprocessors to fill
};
void gemv(const GemvParams&, const Launch&);

struct GemmParams {
  const void* in;      // [rows, k] half
  const void* weight;  // [n, k] half
  void* out;           // [rows, n]; any epilogue but silu_mul
  int rows, n, k;
  Epilogue epilogue;
  Half type;
};
void gemm(const GemmParams&, const Launch&);

// Caches --------------------------------------------------------------------------------------------------------------
// A layer's keys and values: [page][kv head][K|V][page_size][head_dim]; its metadata: [kv head][page][min|max][head_dim].

// Consecutive rows of one branch that fall into one page.
struct AppendTask {
  int32_t row, count;     // rows [row, row + count) of qkv
  int32_t position;       // of the first row
  int32_t page;           // physical
  int32_t sink_position;  // rotate a second copy of the queries to here (streaming), or -1
};

struct AppendParams {
  const AppendTask* tasks;
  int n_tasks;
  void* qkv;      // [rows, (n_heads + 2 n_kv_heads) * head_dim] half: queries are rotated in place
  void* q_sinks;  // [rows, n_heads * head_dim] half, or null when no task has a sink position
  void* kv;
  void* metadata;
  const float* inv_freq;  // [head_dim / 2]
  float attention_factor;
  const float* bias;  // [(n_heads + 2 n_kv_heads) * head_dim] added to qkv before the rotation, or null
  int n_heads, n_kv_heads, head_dim, page_size;
  int64_t pages;  // capacity: the stride of the metadata
  Half type;
};
void rope_append(const AppendParams&, const Launch&);

// The metadata of one page's first tokens, in every layer.
struct PageBoundsParams {
  const void* kv;  // of layer 0, as above
  void* metadata;
  int64_t kv_stride, metadata_stride;  // from layer to layer
  int n_layers, n_kv_heads, head_dim, page_size;
  int64_t pages;    // capacity
  int32_t page;     // physical
  int count;        // its tokens, at least 1
  Half type;
};
void page_bounds(const PageBoundsParams&, const Launch&);

struct PrefillParams {
  const void* q;  // [rows, ...] half, rotated; row i sits at position base + i and sees the keys up to itself
  int64_t q_stride;
  const void* kv;
  const int32_t* table;  // physical pages of the branch
  void* out;             // [rows, n_heads * head_dim] half
  int rows, base;
  int n_heads, n_kv_heads, head_dim, page_size;
  int64_t pages;  // capacity
  Half type;
};
// By the faster of the two that covers the shape:
//   wgmma     compute capability 9.0, head_dim 64 or 128, page_size 8..128, q_stride a multiple of 8
//   mma.sync  everything
void prefill_attention(const PrefillParams&, const Launch&);
void prefill_attention_mma(const PrefillParams&, const Launch&);
bool prefill_wgmma_covers(const PrefillParams&);
void prefill_attention_wgmma(const PrefillParams&, const Launch&);

// Decode steps --------------------------------------------------------------------------------------------------------

enum class Reading : int32_t { dense, selector, window, evictor };

// One query of one branch, and what it may read. Lives on the device: a captured graph sees new values at every step.
struct DecodeRow {
  const int32_t* table;  // physical page of each page of the branch
  int32_t n;             // keys seen, the newest included
  int32_t row;           // in q and out
  Reading reading;       // in layers >= skip_layers; dense below
  int32_t skip_layers;
  // selectors
  int32_t list_pages;   // pages attended, the open one included
  int32_t scores_open;  // the open page is scored like the others
  int32_t mean;         // lists shared by a group: mean of the heads' scores, else maximum
  // window
  int32_t sinks, window;  // first tokens, last tokens
  // evictors
  int32_t kept;                    // tokens in each list, the newest included
  int32_t kept_all;                // nothing was dropped yet: the list is 0 .. n-1
  int32_t budget, protect;         // tokens
  int32_t kept_lists, kept_stride; // lists per layer (1 or n_kv_heads), entries between lists
  int32_t* kept_tokens;            // [layers, kept_lists, kept_stride] ascending
  float* kept_scores;              // the same shape; accumulated scores, or null (TOVA)
  const float* first_scores;       // [layers, n_kv_heads, first_stride] what the prefix's tokens start from, at the first step of
  int64_t first_stride;            // an H2O that looked at its prefill; else null
};

struct DecodeShape {
  int layer, n_heads, n_kv_heads, head_dim;
  int page_shift;  // log2 of the page size
  int n_lists;  // page lists per row: n_kv_heads, or n_heads where each query head has its own
  Half type;
};

struct EstimateParams {
  const DecodeRow* rows;
  int n_rows;
  DecodeShape shape;
  const void* q;  // [rows, ...] half, rotated
  int64_t q_stride;
  const void* metadata;
  const void* kv;  // quest-paper scores the open page from its keys
  int64_t pages;   // capacity
  float* scores;   // [n_rows, n_lists, score_stride]
  int64_t score_stride;
  int blocks;  // along the pages
};
void estimate(const EstimateParams&, const Launch&);
// Blocks along the pages that fill `sms` multiprocessors with rows of up to max_pages pages.
int estimate_blocks(const DecodeShape&, int n_rows, int64_t max_pages, int sms);

struct TopKParams {
  const DecodeRow* rows;
  int n_rows;
  DecodeShape shape;
  const float* scores;
  int64_t score_stride;
  int64_t max_pages;       // of any row
  int32_t* lists;          // [n_rows, n_lists, list_stride] ascending pages
  int32_t list_stride;
  int32_t* open_selected;  // [n_rows] lists that hold the open page, added to; or null
};
void top_k(const TopKParams&, const Launch&);

struct DecodeParams {
  const DecodeRow* rows;
  int n_rows;
  DecodeShape shape;
  const void* q;  // [rows, ...] half, rotated
  int64_t q_stride;
  const void* q_sinks;  // [rows, n_heads * head_dim] half, rotated for the sinks, or null
  const void* kv;
  const int32_t* lists;
  int32_t list_stride;
  void* out;  // [rows, n_heads * head_dim] half
  bool tokens;           // some row is a window or an evictor
  int splits;            // of a list, over blocks; at least 2
  float* partials;       // n_rows * n_heads * splits * (head_dim + 2)
  unsigned* arrivals;    // [n_rows, n_heads] zeros, left as zeros
  float* logits;         // [n_rows, n_heads, logit_stride] evictors' logits in units of log2, or null
  int64_t logit_stride;
  float* norms;  // [n_rows, n_heads, 2] evictors' maximum and sum
  bool selectors_done = false;  // rows that select pages are not computed here
  bool pages_done = false;      // nor rows that read everything
};
void decode_attention(const DecodeParams&, const Launch&);
constexpr int kDecodePartials = 1024;  // rows x splits of a launch: what partials must have room for
// Splits of each list that fill `sms` multiprocessors. Not a function of the length, so that captured graphs stay valid.
int decode_splits(const DecodeShape&, int n_rows, int sms);

// How the fused kernel shares out a row's KV heads.
struct SparsePlan {
  int blocks = 0;  // that share a KV head; 0: not fused
  int slots = 3;   // of each warp's ring
  bool alone = false;  // no two blocks on a multiprocessor: each can have one of its own, and the slowest is what counts
};

// The whole chain of rows that select pages, estimate + top_k + decode_attention, with rows that read otherwise beside them.
struct SparseParams {
  DecodeParams attention;
  const void* metadata;
  int64_t pages;      // capacity
  int64_t max_pages;  // of any row
  SparsePlan plan;    // sparse_plan(): one kernel does it all, with the board; without blocks: one after another, with the five after it
  uint32_t* board;    // [sparse_board_words()] all bits set, and left so
  bool settled;       // no row scores a page that was filled in this pass
  bool others;        // some row does not select pages
  float* scores;      // [n_rows, n_lists, score_stride]
  int64_t score_stride;
  int blocks;         // estimate_blocks()
  int32_t* lists;     // attention.lists, to be written
  int32_t* open_selected;  // see TopKParams
  // With tasks, what rope_append would do comes first: task i is the one token of rows[i], append.qkv is attention.q, append.kv
  // and append.metadata are the cache. Every row must select pages and none score its open page. Whether the queries are
  // rotated in attention.q afterwards is not said.
  AppendParams append = {};
};
void sparse_attention(const SparseParams&, const Launch&);
// Whether the current GPU (of compute capability 9.0 or more) has code of the fused kernel in this build.
bool sparse_fuses();
// For rows of up to max_pages pages and lists of up to list_pages; without blocks where the fused kernel does not apply.
SparsePlan sparse_plan(const DecodeShape&, int n_rows, int64_t max_pages, int64_t list_pages, int sms);
int64_t sparse_board_words(const DecodeShape&, int n_rows, int64_t max_pages, const SparsePlan&);

struct EvictParams {
  const DecodeRow* rows;
  int n_rows;
  DecodeShape shape;
  const float* logits;
  int64_t logit_stride;
  const float* norms;
  float* scores;  // [n_rows, n_kv_heads, logit_stride] scratch
};
void evict_kept(const EvictParams&, const Launch&);

// Analyses: exact, simple, not for speed ------------------------------------------------------------------------------

struct TokenLogitsParams {
  const DecodeRow* rows;
  int n_rows;
  DecodeShape shape;
  const void* q;  // [rows, ...] half, rotated
  int64_t q_stride;
  const void* kv;
  float* logits;  // [n_rows, n_heads, stride] of tokens, or the highest of each page
  int64_t stride;
  int64_t max_tokens;  // of any row
  bool by_page;
};
void token_logits(const TokenLogitsParams&, const Launch&);

struct ListAttentionParams {
  const DecodeRow* rows;  // rows that are not selectors in this layer are left alone
  int n_rows;
  DecodeShape shape;
  const void* q;
  int64_t q_stride;
  const void* kv;
  const int32_t* lists;  // [n_rows, n_heads, list_stride] tokens; the row's list_pages counts them
  int64_t list_stride;
  void* out;  // [rows, n_heads * head_dim] half
};
void list_attention(const ListAttentionParams&, const Launch&);

struct RecallParams {
  const DecodeRow* rows;
  const DecodeRow* top_rows;  // list_pages: entries of the row's top lists
  int n_rows;
  DecodeShape shape;
  const int32_t* tops;  // [n_rows, n_heads, top_stride] tokens
  int64_t top_stride;
  const int32_t* lists;  // what selectors attended, ascending: pages, or tokens
  int64_t list_stride;
  bool token_lists;
  float* shares;  // [n_rows, n_heads] of the top tokens, how many were attended
};
void recall(const RecallParams&, const Launch&);

// Attention that each key receives from a prefill's rows, added to what earlier rows gave.
struct ColumnSumsParams {
  const void* q;  // as in PrefillParams
  int64_t q_stride;
  const void* kv;
  const int32_t* table;
  float* norms;  // [rows, n_heads, 2] scratch: maximum (units of log2) and sum of each row's softmax
  float* sums;   // [n_kv_heads, stride]; keys of these rows start at 0
  int64_t stride;
  int rows, base;
  int n_heads, n_kv_heads, head_dim, page_size;
  Half type;
};
void column_sums(const ColumnSumsParams&, const Launch&);

// Benchmarks ----------------------------------------------------------------------------------------------------------

struct FillParams {
  void* out;  // [n] half, or fp32
  int64_t n;
  float scale, offset;  // standard deviation and mean
  bool fp32;
  Half type;
  uint32_t seed;
};
void fill_random(const FillParams&, const Launch&);

struct ReadParams {
  const void* data;
  int64_t bytes;  // a multiple of 16
  uint32_t* sink; // written when the impossible happens, so that the reads stay
  int sms;
};
void read_all(const ReadParams&, const Launch&);

// From logits to tokens -----------------------------------------------------------------------------------------------

struct ArgmaxParams {
  const float* logits;  // [rows, vocab]
  int32_t* ids;         // [rows]
  int rows, vocab;
};
void argmax(const ArgmaxParams&, const Launch&);

struct NllParams {
  const float* logits;     // [rows, vocab]
  const int32_t* targets;  // [rows], negative to skip
  float* nll;              // [rows]
  int rows, vocab;
};
void negative_log_likelihood(const NllParams&, const Launch&);

}  // namespace quest::cuda
