// True logits of every cached key, for the oracle and for recall: logit = q . k / sqrt(d) in units of log2, as in decode.cu's
// softmax, or the highest of each page (a NaN is never the highest).
//
// q half [row, heads, d]; keys in pages [page][kv head][K|V][page_size][d] through the row's table; logits fp32 [row, head,
// token or page]. One thread per key reads its whole row, so a warp's loads do not coalesce: this serves analyses, where the
// measure is the definition. Bytes: d * 2 per key and query head; 32K tokens, 32 heads, d 128: 268 MB, 90 us at 3.0 TB/s.
// Test: quest_cuda_tests --gtest_filter='Analysis*'.
#include "cuda/dispatch.cuh"

namespace quest::cuda {

namespace {

constexpr int kTokens = 128;  // per block; the largest page

template <class T>
__global__ void QUEST_LAUNCH_BOUNDS(kTokens) token_logits_kernel(TokenLogitsParams p) {
  __shared__ float q[128];
  __shared__ float scores[kTokens];
  dependency_wait();
  dependency_release();
  const DecodeRow& row = p.rows[blockIdx.z];
  const DecodeShape& s = p.shape;
  const int head = static_cast<int>(blockIdx.y), kv_head = head / (s.n_heads / s.n_kv_heads), d = s.head_dim;
  const int tid = static_cast<int>(threadIdx.x), first = static_cast<int>(blockIdx.x) * kTokens, t = first + tid;
  if (first >= row.n) return;
  const float scale = kLog2e / sqrtf(static_cast<float>(d));
  if (tid < d) q[tid] = to_float(static_cast<const T*>(p.q)[row.row * p.q_stride + head * d + tid]) * scale;
  __syncthreads();
  float dot = kMinusInfinity;
  if (t < row.n) {
    const int64_t page = row.table[t >> s.page_shift], offset = t & ((1 << s.page_shift) - 1);
    const T* key = static_cast<const T*>(p.kv) + ((page * s.n_kv_heads + kv_head) * 2 << s.page_shift) * d + offset * d;
    dot = 0;
    for (int c = 0; c < d; c += 8) {
      float k[8];
      unpack8<T>(*reinterpret_cast<const uint4*>(key + c), k);
#pragma unroll
      for (int j = 0; j < 8; ++j) dot = fmaf(q[c + j], k[j], dot);
    }
  }
  float* out = p.logits + (static_cast<int64_t>(blockIdx.z) * s.n_heads + head) * p.stride;
  if (!p.by_page) {
    if (t < row.n) out[t] = dot;
    return;
  }
  scores[tid] = dot;
  __syncthreads();
  const int size = 1 << s.page_shift;
  if (tid >= kTokens / size || first + tid * size >= row.n) return;
  float best = kMinusInfinity;
  for (int j = 0; j < size; ++j) best = scores[tid * size + j] > best ? scores[tid * size + j] : best;
  out[(first >> s.page_shift) + tid] = best;
}

}  // namespace

void token_logits(const TokenLogitsParams& p, const Launch& how) {
  if (p.n_rows == 0 || p.max_tokens == 0) return;
  const dim3 grid(static_cast<unsigned>((p.max_tokens + kTokens - 1) / kTokens), static_cast<unsigned>(p.shape.n_heads),
                  static_cast<unsigned>(p.n_rows));
  with_half(p.shape.type, [&](auto t) { launch(how, "token_logits", token_logits_kernel<decltype(t)>, grid, unsigned{kTokens}, 0, p); });
}

}  // namespace quest::cuda
