// One unit of 4-bit weights (int4.h: 16 outputs x 128 inputs) against up to eight input rows on tensor cores, and where those lie.
//
// A word of eight weights becomes the A operand of one m16n8k16 with one shift, four lop3 (a nibble under the exponent of 1024 is the
// fp16 number 1024 + q or 1024 + 16 q) and four half2 operations that leave q - zero exactly. The scale multiplies a group's fp32
// sum.
#pragma once

#include "cuda/gemv_norm.cuh"
#include "cuda/int4.h"

namespace quest::cuda {

__device__ inline __half2 as_half2(uint32_t bits) {
  __half2 h;
  __builtin_memcpy(static_cast<void*>(&h), &bits, 4);
  return h;
}
__device__ inline uint32_t as_bits(__half2 h) {
  uint32_t bits;
  __builtin_memcpy(&bits, &h, 4);
  return bits;
}

// What a lane holds of one unit.
template <int kGroups>
struct Int4Unit {
  uint4 words[2];
  uint2 scales[kGroups];  // {scale, zero} of rows lane / 4 and lane / 4 + 8

  // at: the unit, in global memory (streaming) or shared memory.
  template <bool kStreaming>
  __device__ void load(const unsigned char* at, int lane) {
    for (int i = 0; i < 2; ++i) words[i] = kStreaming ? load_streaming(at + i * 512 + lane * 16) : *reinterpret_cast<const uint4*>(at + i * 512 + lane * 16);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) scales[g] = *reinterpret_cast<const uint2*>(at + 1024 + g * 64 + lane / 4 * 8);
  }
};

// Eight weights minus their zeros. low = 1024 + zero of rows 0..7, high = -(64 + zero) of rows 8..15.
__device__ inline void unpack_word(uint32_t w, __half2 low, __half2 high, uint32_t (&a)[4]) {
  const __half2 sixteenth = as_half2(0x2c002c00u);
  const uint32_t w8 = w >> 8;
  a[0] = as_bits(__hsub2(as_half2((w & 0x000f000fu) | 0x64006400u), low));
  a[1] = as_bits(__hfma2(as_half2((w & 0x00f000f0u) | 0x64006400u), sixteenth, high));
  a[2] = as_bits(__hsub2(as_half2((w8 & 0x000f000fu) | 0x64006400u), low));
  a[3] = as_bits(__hfma2(as_half2((w8 & 0x00f000f0u) | 0x64006400u), sixteenth, high));
}

// Index of input k of row r among the halves in shared memory: [pairs of 16 inputs][lanes of B][step, register, half].
__device__ inline int int4_input_at(int rows, int r, int k) {
  return ((k / 32 * 4 * rows + r * 4 + k % 8 / 2) * 8) + k / 16 % 2 * 4 + k / 8 % 2 * 2 + k % 2;
}

// acc += unit u by the inputs. lanes = 4 rows: those that hold a column of B.
template <int kGroups>
__device__ inline void int4_multiply(float (&acc)[4], const Int4Unit<kGroups>& unit, const __half* in, int u, int lanes, int lane) {
  const uint4* x = reinterpret_cast<const uint4*>(in) + u * 4 * lanes + lane;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const __half2 s0 = as_half2(unit.scales[g].x), s1 = as_half2(unit.scales[g].y);
    const __half2 low = __hadd2(__high2half2(s0), as_half2(0x64006400u));
    const __half2 high = __hneg2(__hadd2(__high2half2(s1), as_half2(0x54005400u)));
    float sum[4] = {0, 0, 0, 0};
#pragma unroll
    for (int pair = g * 4 / kGroups; pair < (g + 1) * 4 / kGroups; ++pair) {
      uint4 b{0, 0, 0, 0};
      if (lane < lanes) b = x[pair * lanes];
      const uint4 w = unit.words[pair / 2];
      uint32_t a[4];
      unpack_word(pair % 2 == 0 ? w.x : w.z, low, high, a);
      mma16816<__half>(sum, a, b.x, b.y);
      unpack_word(pair % 2 == 0 ? w.y : w.w, low, high, a);
      mma16816<__half>(sum, a, b.z, b.w);
    }
    const float scale0 = __low2float(s0), scale1 = __low2float(s1);
    acc[0] = fmaf(scale0, sum[0], acc[0]);
    acc[1] = fmaf(scale0, sum[1], acc[1]);
    acc[2] = fmaf(scale1, sum[2], acc[2]);
    acc[3] = fmaf(scale1, sum[3], acc[3]);
  }
}

// The prologue: rows of the input, normed where asked for, as B operands; zeros from k to `padded`.
template <int kThreads>
__device__ inline void stage_int4_inputs(const Int4GemvParams& p, __half* in, int padded, float* scratch) {
  const int tid = static_cast<int>(threadIdx.x);
  for (int r = 0; r < p.rows; ++r) {
    const auto put_pair = [&](int k, uint32_t pair) { __builtin_memcpy(in + int4_input_at(p.rows, r, k), &pair, 4); };
    if (p.norm_x) {
      norm_row<kThreads>(p.norm_x + static_cast<int64_t>(r) * p.k, p.norm_weight, p.k, p.eps, scratch,
                         [&](int k, float a, float b) { put_pair(k, pack2<__half>(a, b)); });
    } else {
      const __half* from = static_cast<const __half*>(p.in) + static_cast<int64_t>(r) * p.k;
      for (int i = tid * 8; i < p.k; i += kThreads * 8) {
        const uint4 v = __ldcg(reinterpret_cast<const uint4*>(from + i));
        const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) put_pair(i + 2 * j, pairs[j]);
      }
    }
    for (int i = p.k + tid * 2; i < padded; i += kThreads * 2) put_pair(i, 0);
  }
}

// One output, or gate and up of one, from the sums over k. `row` of the tile.
__device__ inline void store_int4_output(const Int4GemvParams& p, int tile, int r, int row, float value, float up) {
  if (p.epilogue == Epilogue::silu_mul) {
    static_cast<__half*>(p.out)[static_cast<int64_t>(r) * (p.n / 2) + tile * 8 + row] = __float2half_rn(value / (1.0f + __expf(-value)) * up);
    return;
  }
  const int output = tile * kInt4Outputs + row;
  if (output >= p.n) return;
  const int64_t to = static_cast<int64_t>(r) * p.n + output;
  if (p.epilogue == Epilogue::half) static_cast<__half*>(p.out)[to] = __float2half_rn(value);
  if (p.epilogue == Epilogue::fp32) static_cast<float*>(p.out)[to] = value;
  if (p.epilogue == Epilogue::residual) static_cast<float*>(p.out)[to] = __ldcg(static_cast<float*>(p.out) + to) + value;
}

}  // namespace quest::cuda
