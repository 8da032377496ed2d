// 4-bit weights on the GPU (W4A16): their layout, and the kernels that make and read it.
//
// A matrix [n, k] is cut into tiles of 16 outputs and units of 128 inputs; edges are filled up with weights of value 0. The block
// of tile t and unit u begins at byte (t * units + u) * int4_block_bytes(group):
//   words   [2][32 lanes][4]  what lane l of a warp needs as the A operand of m16n8k16 (device.cuh), 16 bytes a load: word j of
//                             half h belongs to inputs i + {0, 1, 8, 9}, i = 128 u + 64 h + 16 j + 2 (l % 4); bits 4 b are the weight of
//                             row l / 4 + 8 (b & 1) and input i + 8 (b >> 1 & 1) + (b >> 2)
//   scales  [128 / group][8][2]  {scale, zero} fp16 of rows r and r + 8
// so 4.25 bits per weight in groups of 128. Row r of tile t is output 16 t + r; for the silu_mul epilogue rows 0..7 are the gate's
// outputs 8 t + r and rows 8..15 the up projection's, so that a thread holds both.
// Supported: groups of 32, 64, 128; n a multiple of 8 (of 16 when interleaved); fp16 activations.
#pragma once

#include "cuda/kernels.h"

namespace quest::cuda {

constexpr int kInt4Outputs = 16, kInt4Inputs = 128;
__host__ __device__ constexpr int int4_block_bytes(int group) { return kInt4Outputs * kInt4Inputs / 2 + kInt4Inputs / group * kInt4Outputs * 4; }
__host__ __device__ constexpr int int4_units(int64_t k) { return static_cast<int>((k + kInt4Inputs - 1) / kInt4Inputs); }
__host__ __device__ constexpr int int4_tiles(int64_t n) { return static_cast<int>((n + kInt4Outputs - 1) / kInt4Outputs); }
__host__ __device__ constexpr int64_t int4_bytes(int64_t n, int64_t k, int group) { return int64_t{1} * int4_tiles(n) * int4_units(k) * int4_block_bytes(group); }

// As gemv(), with 4-bit weights. Interleaved for silu_mul, and only then.
struct Int4GemvParams {
  const void* in;            // [rows, k] fp16, or null with a norm
  const float* norm_x;       // [rows, k] residual stream, or null
  const float* norm_weight;  // [k]
  float eps;
  const void* weight;
  int group;
  void* out;       // [rows, n], see Epilogue
  int rows, n, k;  // any number of rows, taken kGemvRows at a time
  Epilogue epilogue;
  int sms;
};
void int4_gemv(const Int4GemvParams&, const Launch&);

// Products of one row, each of which may read what the ones before wrote, with groups of one size: in one kernel of a block per
// multiprocessor, all of which must be on the GPU at once (sm_90 and newer). The same bits as int4_gemv().
constexpr int kMaxChain = 4;
struct Int4GemvChainParams {
  Int4GemvParams products[kMaxChain];
  int n;
  unsigned* barrier;  // 0 before the first chain; theirs alone
};
void int4_gemv_chain(const Int4GemvChainParams&, const Launch&);
// Why a chain of `blocks` blocks over inputs of up to so many columns must not run on the current GPU; empty where it may.
std::string int4_chain_refusal(int most_columns, int blocks);

// One projection as AutoAWQ stores it (core/awq.h), on the device.
struct AwqPart {
  const uint32_t* weights;  // [k, n / 8]
  const uint32_t* zeros;    // [k / group, n / 8]
  const uint16_t* scales;   // [k / group, n] fp16
  int n;
};

// Lays one to three projections of the same input into one matrix, after each other or (two) interleaved.
struct Int4PackParams {
  AwqPart parts[3];
  int n_parts;
  void* out;
  int n, k, group;  // n: of all parts
  bool interleaved;
};
void int4_pack(const Int4PackParams&, const Launch&);

// The values as fp16 [n, k], outputs in their own order: what the matrix products of many rows read.
struct Int4UnpackParams {
  const void* weight;
  void* out;
  int n, k, group;
  bool interleaved;
};
void int4_unpack(const Int4UnpackParams&, const Launch&);

// Random weights of the given standard deviation, for benchmarks.
struct Int4RandomParams {
  void* out;
  int n, k, group;
  float deviation;
  uint32_t seed;
};
void int4_random(const Int4RandomParams&, const Launch&);

}  // namespace quest::cuda
