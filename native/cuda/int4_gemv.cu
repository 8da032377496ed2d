// Matrix-vector products with 4-bit weights for decode steps: gemv.cu's products, prologues and epilogues at a quarter of the bytes.
//
//   out[r, n] = sum_k in[r, k] * (q[n, k] - zero[n, k / group]) * scale[n, k / group]     in fp16; sums fp32
//
// At three bytes per nanosecond a multiprocessor gets some 45 weights per cycle, too many for fp32 arithmetic with conversions, so the
// products run on the tensor cores: a word of eight weights becomes the A operand of one m16n8k16 with one shift, four lop3 (a
// nibble under the exponent of 1024 is the fp16 number 1024 + q or 1024 + 16 q) and four half2 operations that leave q - zero
// exactly; up to eight rows of the input are the columns of B and cost no more than one. The scale multiplies a group's fp32 sum.
//
// A block of eight warps takes tiles of 16 outputs; its warps share out the units of 128 inputs (a contiguous kilobyte each) and add
// up through shared memory in a fixed order. Every lane keeps four units in flight, over the ends of tiles; the first are asked for
// before the prologue, and with programmatic launch before the predecessor has ended. The inputs lie in shared memory as B operands.
//
// Bytes: 0.53 n k. 4096 x 4096: 8.9 MB, 3.0 us at 3.0 TB/s; a layer of Llama-2-7B: 107.5 MB, 36 us.
// Measured on an H100, one row: o 45%, qkv 61%, gate_up 65%, down 57% of the read bandwidth, short of the 60% wanted at 4096 x 4096.
// Rings filled by cp.async gave the same alone and made whole steps slower (7B int4, 32K, Quest 2048: 4.4 ms against 3.7 ms).
// Test: quest_cuda_tests --gtest_filter='Int4*'. Time: quest_cuda_bench int4.
#include "cuda/dispatch.cuh"
#include "cuda/int4.h"

namespace quest::cuda {

namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kAhead = 4;                   // units in flight per lane
constexpr int kMaxInputBytes = 190 * 1024;  // in shared memory, beside the partial sums

// What a lane holds of one unit.
template <int kGroups>
struct Unit {
  uint4 words[2];
  uint2 scales[kGroups];  // {scale, zero} of rows lane / 4 and lane / 4 + 8
};

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
__device__ inline int input_at(int rows, int r, int k) {
  return ((k / 32 * 4 * rows + r * 4 + k % 8 / 2) * 8) + k / 16 % 2 * 4 + k / 8 % 2 * 2 + k % 2;
}

// The prologue: rows of the input, normed where asked for, as B operands; zeros behind k.
__device__ inline void stage_inputs(const Int4GemvParams& p, __half* in, int padded, float* scratch) {
  const int tid = static_cast<int>(threadIdx.x);
  for (int r = 0; r < p.rows; ++r) {
    const auto put = [&](int k, float a, float b) {
      const uint32_t pair = pack2<__half>(a, b);
      __builtin_memcpy(in + input_at(p.rows, r, k), &pair, 4);
    };
    if (p.norm_x) {
      const float* x = p.norm_x + static_cast<int64_t>(r) * p.k;
      float squares = 0;
      for (int i = tid * 4; i < p.k; i += kThreads * 4) {
        const float4 v = *reinterpret_cast<const float4*>(x + i);
        squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
      }
      const float scale = rsqrtf(block_sum(squares, scratch) / static_cast<float>(p.k) + p.eps);
      for (int i = tid * 2; i < p.k; i += kThreads * 2) {
        const float2 v = *reinterpret_cast<const float2*>(x + i), w = *reinterpret_cast<const float2*>(p.norm_weight + i);
        put(i, v.x * scale * w.x, v.y * scale * w.y);
      }
      __syncthreads();  // scratch is used again for the next row
    } else {
      const __half* from = static_cast<const __half*>(p.in) + static_cast<int64_t>(r) * p.k;
      for (int i = tid * 8; i < p.k; i += kThreads * 8) {
        const uint4 v = *reinterpret_cast<const uint4*>(from + i);
        const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) __builtin_memcpy(in + input_at(p.rows, r, i + 2 * j), &pairs[j], 4);
      }
    }
    for (int i = p.k + tid * 2; i < padded; i += kThreads * 2) put(i, 0, 0);
  }
}

// Stores one tile from the sums of the block's warps: partials [kWarps][16 rows of the tile][rows of the input].
__device__ inline void store_tile(const Int4GemvParams& p, int tile, const float* partials) {
  const int tid = static_cast<int>(threadIdx.x), rows = p.rows, width = kInt4Outputs * rows;
  const bool silu = p.epilogue == Epilogue::silu_mul;
  if (tid >= (silu ? width / 2 : width)) return;
  const auto sum = [&](int at) {
    float value = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) value += partials[w * width + at];
    return value;
  };
  const int r = tid % rows, row = tid / rows;
  const float value = sum(tid);
  if (silu) {
    const float up = sum(tid + width / 2);
    static_cast<__half*>(p.out)[static_cast<int64_t>(r) * (p.n / 2) + tile * 8 + row] = __float2half_rn(value / (1.0f + __expf(-value)) * up);
    return;
  }
  const int output = tile * kInt4Outputs + row;
  if (output >= p.n) return;
  const int64_t to = static_cast<int64_t>(r) * p.n + output;
  if (p.epilogue == Epilogue::half) static_cast<__half*>(p.out)[to] = __float2half_rn(value);
  if (p.epilogue == Epilogue::fp32) static_cast<float*>(p.out)[to] = value;
  if (p.epilogue == Epilogue::residual) static_cast<float*>(p.out)[to] += value;
}

template <int kGroups>
__global__ void QUEST_LAUNCH_BOUNDS(kThreads, 2) int4_gemv_kernel(Int4GemvParams p) {
  __shared__ float scratch[kWarps];
  __shared__ float partials[2][kWarps * kInt4Outputs * kGemvRows];  // two tiles in turn: one barrier each
  auto* in = reinterpret_cast<__half*>(dynamic_shared());
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32, block = static_cast<int>(blockIdx.x);
  const int tiles = int4_tiles(p.n), units = int4_units(p.k), stride = static_cast<int>(gridDim.x);
  constexpr int kBytes = int4_block_bytes(kInt4Inputs / kGroups);

  Unit<kGroups> held[kAhead];
  const unsigned char* next = static_cast<const unsigned char*>(p.weight) + (static_cast<int64_t>(block) * units + warp) * kBytes;
  int load_tile = warp < units ? block : tiles, load_unit = warp;
  const auto load = [&](Unit<kGroups>& to) {
    if (load_tile >= tiles) return;
    to.words[0] = load_streaming(next + lane * 16);
    to.words[1] = load_streaming(next + 512 + lane * 16);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) to.scales[g] = *reinterpret_cast<const uint2*>(next + 1024 + g * 64 + lane / 4 * 8);
    load_unit += kWarps;
    next += kWarps * kBytes;
    if (load_unit < units) return;
    next += (static_cast<int64_t>(stride) * units + warp - load_unit) * kBytes;
    load_unit = warp;
    load_tile += stride;
  };
#pragma unroll
  for (int i = 0; i < kAhead; ++i) load(held[i]);
  dependency_wait();
  dependency_release();
  stage_inputs(p, in, units * kInt4Inputs, scratch);
  __syncthreads();

  const int lanes = 4 * p.rows;  // that hold a column of B
  float acc[4];
  const auto multiply = [&](Unit<kGroups>& unit, int u) {
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
    load(unit);
  };
  int slot = 0;  // which of the held units is the next to multiply
  int buffer = 0;
  for (int tile = block; tile < tiles; tile += stride, buffer ^= 1) {
    acc[0] = acc[1] = acc[2] = acc[3] = 0;
    for (int u = warp; u < units; u += kWarps, slot = (slot + 1) % kAhead) {
      // Not held[slot], which would put them into memory.
      if (slot == 0) multiply(held[0], u);
      if (slot == 1) multiply(held[1], u);
      if (slot == 2) multiply(held[2], u);
      if (slot == 3) multiply(held[3], u);
    }
    float* mine = partials[buffer] + warp * kInt4Outputs * p.rows;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int column = lane % 4 * 2 + e % 2;
      if (column < p.rows) mine[(lane / 4 + e / 2 * 8) * p.rows + column] = acc[e];
    }
    __syncthreads();
    store_tile(p, tile, partials[buffer]);
  }
}

template <int kGroups>
void launch_groups(const Int4GemvParams& p, const Launch& how) {
  const int tiles = int4_tiles(p.n);
  const dim3 grid(static_cast<unsigned>(tiles < 2 * p.sms ? tiles : 2 * p.sms));
  const size_t shared = size_t{2} * static_cast<size_t>(p.rows) * static_cast<size_t>(int4_units(p.k)) * kInt4Inputs;
  launch(how, "int4_gemv", int4_gemv_kernel<kGroups>, grid, kThreads, shared, p);
}

const void* skip_bytes(const void* p, int64_t bytes) { return p ? static_cast<const unsigned char*>(p) + bytes : nullptr; }

}  // namespace

void int4_gemv(const Int4GemvParams& all, const Launch& how) {
  const int fit = kMaxInputBytes / (2 * int4_units(all.k) * kInt4Inputs);
  if (fit < 1) throw Error("E_UNSUPPORTED", "a 4-bit matrix has " + std::to_string(all.k) + " inputs, the GPU kernels take up to 97280");
  const int most = fit < kGemvRows ? fit : kGemvRows;
  const int64_t out_bytes = all.epilogue == Epilogue::half       ? int64_t{2} * all.n
                            : all.epilogue == Epilogue::silu_mul ? all.n
                                                                 : int64_t{4} * all.n;
  for (int row = 0; row < all.rows;) {
    Int4GemvParams p = all;
    p.rows = all.rows - row < most ? all.rows - row : most;
    p.in = skip_bytes(all.in, int64_t{2} * row * all.k);
    if (all.norm_x) p.norm_x = all.norm_x + static_cast<int64_t>(row) * all.k;
    p.out = static_cast<unsigned char*>(all.out) + row * out_bytes;
    if (p.group == 128) {
      launch_groups<1>(p, how);
    } else if (p.group == 64) {
      launch_groups<2>(p, how);
    } else {
      launch_groups<4>(p, how);
    }
    row += p.rows;
  }
}

}  // namespace quest::cuda
