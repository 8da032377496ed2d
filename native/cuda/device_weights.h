// A model's weights on the GPU: matrices in the model's 16-bit format or in 4 bits (int4.h), norms in fp32, projections of one
// input side by side.
#pragma once

#include <vector>

#include "core/job.h"
#include "core/weights.h"
#include "cuda/launch.h"

namespace quest::cuda {

struct DeviceMatrix {
  const void* data = nullptr;
  int group = 0;  // above 0: 4-bit weights in groups of that many
};

struct DeviceLayer {
  const float* attn_norm;  // [hidden]
  DeviceMatrix qkv;       // [(n_heads + 2 n_kv_heads) * head_dim, hidden]
  const float* qkv_bias;   // [(n_heads + 2 n_kv_heads) * head_dim], or null
  DeviceMatrix o;         // [hidden, n_heads * head_dim]
  const float* ffn_norm;   // [hidden]
  DeviceMatrix gate_up;   // [2 ffn, hidden], 4-bit ones interleaved
  DeviceMatrix down;      // [hidden, ffn]
};

class DeviceWeights {
 public:
  // Streams the mapped files through two pinned buffers. bf16 checkpoints stay bf16; everything else becomes fp16.
  DeviceWeights(const ModelSpec& spec, const Weights& weights, cudaStream_t stream);
  // Random weights made on the device, for benchmarks without a checkpoint; with a group above 0 the layers' matrices have 4 bits.
  DeviceWeights(const ModelSpec& spec, Half half, cudaStream_t stream, int group = 0);

  Half type;
  const void* embed;    // [vocab, hidden]
  const void* lm_head;  // [vocab, hidden]
  const float* norm;    // [hidden]
  const float* inv_freq;
  std::vector<DeviceLayer> layers;
  // What the first constructor takes of the GPU's memory. Maps the files; needs no GPU.
  static int64_t bytes_of(const ModelSpec& spec);
  int64_t bytes() const { return static_cast<int64_t>(memory_.size()); }

 private:
  explicit DeviceWeights(Half half) : type(half) {}
  // Returns the bytes of all; only those where `measure` is set.
  size_t place(const ModelSpec& spec, const Weights& weights, cudaStream_t stream, bool measure = false);

  Buffer<unsigned char> memory_;
};

}  // namespace quest::cuda
