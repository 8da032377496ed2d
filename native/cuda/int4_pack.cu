// 4-bit weights from AutoAWQ's layout into ours (int4.h), once when a model is loaded, and from ours into fp16 matrices for products of
// many rows.
//
//   int4_pack    a thread makes one word, or one {scale, zero}. Its eight weights come from eight words of the checkpoint; lanes of a
//                warp share them, so L2 serves most of it. Llama-2-7B: 3.4 GB, a few hundred milliseconds with the upload.
//   int4_unpack  a block turns one unit of 16 outputs x 128 inputs into fp16 through shared memory, so that both sides move 16
//                bytes per thread. Writes 2 n k bytes: 22016 x 4096: 180 MB, 63 us at 3.0 TB/s with its reads.
// Test: quest_cuda_tests --gtest_filter='Int4*'.
#include "cuda/dispatch.cuh"
#include "cuda/int4.h"

namespace quest::cuda {

namespace {

constexpr unsigned kThreads = 256;  // words of a block: 16 * 128 / 8

// Outputs come in eights. The one at place `half` (tile * 2 + upper half), as a part and a word within its rows; part -1: filler.
struct Octet {
  int part, word;
};
__device__ inline Octet octet_at(const Int4PackParams& p, int half) {
  if (p.interleaved) return {half % 2, half / 2};
  for (int part = 0; part < p.n_parts; ++part) {
    if (half < p.parts[part].n / 8) return {part, half};
    half -= p.parts[part].n / 8;
  }
  return {-1, 0};
}

__global__ void QUEST_LAUNCH_BOUNDS(kThreads) pack_kernel(Int4PackParams p) {
  constexpr int kNibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // kAwqNibble, which device code cannot index
  dependency_wait();
  dependency_release();
  const int units = int4_units(p.k), tile = static_cast<int>(blockIdx.x) / units, unit = static_cast<int>(blockIdx.x) % units;
  auto* block = static_cast<unsigned char*>(p.out) + static_cast<int64_t>(blockIdx.x) * int4_block_bytes(p.group);
  const int w = static_cast<int>(threadIdx.x), lane = w % 128 / 4, k0 = unit * kInt4Inputs + w / 128 * 64 + w % 4 * 16 + lane % 4 * 2;
  uint32_t word = 0;
  for (int half = 0; half < 2; ++half) {
    const Octet o = octet_at(p, 2 * tile + half);
    if (o.part < 0) continue;
    const AwqPart& part = p.parts[o.part];
    for (int e = 0; e < 4; ++e) {
      const int k = k0 + e / 2 * 8 + e % 2;
      if (k >= p.k) continue;
      const uint32_t from = part.weights[static_cast<int64_t>(k) * (part.n / 8) + o.word];
      word |= (from >> (4 * kNibble[lane / 4]) & 15u) << (4 * (half + e / 2 * 2 + e % 2 * 4));
    }
  }
  reinterpret_cast<uint32_t*>(block)[w] = word;

  const int groups = kInt4Inputs / p.group;
  if (w >= groups * kInt4Outputs) return;
  const int group = unit * groups + w / kInt4Outputs, row = w % kInt4Outputs / 2;
  const Octet o = octet_at(p, 2 * tile + w % 2);
  uint32_t pair = 0;
  if (o.part >= 0 && group * p.group < p.k) {
    const AwqPart& part = p.parts[o.part];
    const uint32_t zeros = part.zeros[static_cast<int64_t>(group) * (part.n / 8) + o.word];
    const __half zero = __float2half_rn(static_cast<float>(zeros >> (4 * kNibble[row]) & 15u));
    uint16_t bits;
    __builtin_memcpy(&bits, &zero, 2);
    pair = part.scales[static_cast<int64_t>(group) * part.n + o.word * 8 + row] | static_cast<uint32_t>(bits) << 16;
  }
  reinterpret_cast<uint32_t*>(block + kInt4Outputs * kInt4Inputs / 2)[w] = pair;
}

__global__ void QUEST_LAUNCH_BOUNDS(kThreads) unpack_kernel(Int4UnpackParams p) {
  __shared__ __align__(16) uint16_t values[kInt4Outputs][kInt4Inputs + 8];
  dependency_wait();
  dependency_release();
  const int units = int4_units(p.k), tile = static_cast<int>(blockIdx.x) / units, unit = static_cast<int>(blockIdx.x) % units;
  const auto* block = static_cast<const unsigned char*>(p.weight) + static_cast<int64_t>(blockIdx.x) * int4_block_bytes(p.group);
  const int w = static_cast<int>(threadIdx.x), lane = w % 128 / 4, k0 = w / 128 * 64 + w % 4 * 16 + lane % 4 * 2, r = lane / 4;
  const uint32_t word = reinterpret_cast<const uint32_t*>(block)[w];
  const auto* scales = reinterpret_cast<const __half2*>(block + kInt4Outputs * kInt4Inputs / 2) + k0 / p.group * kInt4Outputs;
#pragma unroll
  for (int b = 0; b < 4; ++b) {
    const float2 s = __half22float2(scales[r * 2 + b % 2]);
    const float low = static_cast<float>(word >> (4 * b) & 15u) - s.y, high = static_cast<float>(word >> (4 * b + 16) & 15u) - s.y;
    const uint32_t pair = pack2<__half>(low * s.x, high * s.x);
    __builtin_memcpy(&values[r + b % 2 * 8][k0 + b / 2 * 8], &pair, 4);
  }
  __syncthreads();
  const int row = w / 16, column = unit * kInt4Inputs + w % 16 * 8;
  const int output = p.interleaved ? row / 8 * (p.n / 2) + tile * 8 + row % 8 : tile * kInt4Outputs + row;
  if (output >= p.n || column >= p.k) return;
  *reinterpret_cast<uint4*>(static_cast<uint16_t*>(p.out) + static_cast<int64_t>(output) * p.k + column) =
      *reinterpret_cast<const uint4*>(&values[row][w % 16 * 8]);
}

unsigned blocks(int n, int k) { return static_cast<unsigned>(int4_tiles(n)) * static_cast<unsigned>(int4_units(k)); }

}  // namespace

void int4_pack(const Int4PackParams& p, const Launch& how) {
  launch(how, "int4_pack", pack_kernel, dim3(blocks(p.n, p.k)), kThreads, 0, p);
}

void int4_unpack(const Int4UnpackParams& p, const Launch& how) {
  launch(how, "int4_unpack", unpack_kernel, dim3(blocks(p.n, p.k)), kThreads, 0, p);
}

}  // namespace quest::cuda
