// Tensor-core matrix product for prefill and large batches: out[r, n] (+)= sum_k in[r, k] * weight[n, k].
//
// Both operands are half with k contiguous; sums fp32; out half, fp32 or added to the fp32 residual stream. Used where cuBLAS
// is not on the machine, and its check where it is. A block computes 128 x 128 outputs with eight warps of 64 x 32; tiles of
// 32 columns of k pass through a ring of four stages filled by cp.async; rows in shared memory are padded to an odd number of
// 16-byte units, so that ldmatrix meets no bank twice. Any shape with k a multiple of 8; edges are filled with zeros.
//
// Work: 2 rows n k. 2048 x 12288 x 4096: 206 GFLOP, 0.27 ms at the 762 TFLOP/s that cuBLAS reaches on an H100; mma.sync
// (not wgmma) reaches 256.
// Test: quest_cuda_tests --gtest_filter='Gemm*'. Time: quest_cuda_bench gemm.
#include "cuda/dispatch.cuh"

namespace quest::cuda {

namespace {

constexpr int kBlock = 128;  // rows and columns of a block's outputs
constexpr int kDepth = 32;   // of k per stage
constexpr int kStages = 4;
constexpr int kPitch = kDepth + 8;
constexpr int kThreads = 256;
constexpr size_t kSharedBytes = size_t{kStages} * 2 * kBlock * kPitch * 2;

template <class T, Epilogue kEpilogue>
__global__ void QUEST_LAUNCH_BOUNDS(kThreads) gemm_kernel(GemmParams p) {
  T* shared = reinterpret_cast<T*>(dynamic_shared());
  const auto in_tile = [&](int stage) { return shared + stage * 2 * kBlock * kPitch; };
  const auto weight_tile = [&](int stage) { return in_tile(stage) + kBlock * kPitch; };
  const int tid = static_cast<int>(threadIdx.x), lane = tid % 32, warp = tid / 32;
  const int row0 = static_cast<int>(blockIdx.x) * kBlock, column0 = static_cast<int>(blockIdx.y) * kBlock;
  const T* in = static_cast<const T*>(p.in);
  const T* weight = static_cast<const T*>(p.weight);
  dependency_wait();
  dependency_release();

  const auto fetch = [&](int step) {
    const int stage = step % kStages, k0 = step * kDepth;
    // 128 rows of four 16-byte chunks, twice.
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int chunk = tid + i * kThreads, r = chunk / 4, k = k0 + chunk % 4 * 8;
      const bool in_k = k < p.k;
      const bool a = in_k && row0 + r < p.rows, b = in_k && column0 + r < p.n;
      copy_async16(in_tile(stage) + r * kPitch + chunk % 4 * 8, in + (a ? static_cast<int64_t>(row0 + r) * p.k + k : 0), a);
      copy_async16(weight_tile(stage) + r * kPitch + chunk % 4 * 8, weight + (b ? static_cast<int64_t>(column0 + r) * p.k + k : 0), b);
    }
  };
  const int steps = (p.k + kDepth - 1) / kDepth;
  for (int i = 0; i < kStages - 1; ++i) {
    if (i < steps) fetch(i);
    copy_async_commit();
  }

  const int warp_row = warp / 4 * 64, warp_column = warp % 4 * 32;
  float acc[4][4][4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[i][j][e] = 0;
    }
  }
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<kStages - 2>();
    __syncthreads();
    if (step + kStages - 1 < steps) fetch(step + kStages - 1);
    copy_async_commit();
    const T* a_tile = in_tile(step % kStages) + warp_row * kPitch;
    const T* b_tile = weight_tile(step % kStages) + warp_column * kPitch;
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      uint32_t a[4][4], b[2][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) load_matrix4(a[i], a_tile + (i * 16 + lane % 16) * kPitch + k + lane / 16 * 8);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        load_matrix4(b[j], b_tile + (j * 16 + lane / 16 * 8 + lane % 8) * kPitch + k + lane / 8 % 2 * 8);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) mma16816<T>(acc[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
  copy_async_wait<0>();

#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int r = row0 + warp_row + i * 16 + lane / 4 + e / 2 * 8, n = column0 + warp_column + j * 8 + lane % 4 * 2 + e % 2;
        if (r >= p.rows || n >= p.n) continue;
        const int64_t to = static_cast<int64_t>(r) * p.n + n;
        if constexpr (kEpilogue == Epilogue::half) static_cast<T*>(p.out)[to] = from_float<T>(acc[i][j][e]);
        if constexpr (kEpilogue == Epilogue::fp32) static_cast<float*>(p.out)[to] = acc[i][j][e];
        if constexpr (kEpilogue == Epilogue::residual) static_cast<float*>(p.out)[to] += acc[i][j][e];
      }
    }
  }
}

}  // namespace

void gemm(const GemmParams& p, const Launch& how) {
  const dim3 grid(static_cast<unsigned>((p.rows + kBlock - 1) / kBlock), static_cast<unsigned>((p.n + kBlock - 1) / kBlock));
  with_half(p.type, [&](auto t) {
    using T = decltype(t);
    auto* kernel = p.epilogue == Epilogue::half   ? gemm_kernel<T, Epilogue::half>
                   : p.epilogue == Epilogue::fp32 ? gemm_kernel<T, Epilogue::fp32>
                                                  : gemm_kernel<T, Epilogue::residual>;
    launch(how, "gemm", kernel, grid, kThreads, kSharedBytes, p);
  });
}

}  // namespace quest::cuda
