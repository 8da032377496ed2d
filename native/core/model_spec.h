// A Llama-shaped decoder as src/model describes it (src/model/spec.ts is the TypeScript side of this file).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace quest {

// Where a tensor's bytes begin.
struct Place {
  int32_t file = 0;     // index into ModelSpec::files
  uint64_t offset = 0;  // bytes from the start of the file
};

// A contiguous row-major tensor inside one of the checkpoint's files. With a group it is a matrix of 4-bit weights in AWQ's
// layout (core/awq.h): `shape` is that of the 16-bit matrix, the place is that of its packed weights, dtype that of its scales.
struct TensorRef : Place {
  DType dtype = DType::fp32;
  std::vector<int64_t> shape;
  int64_t group = 0;
  Place zeros{}, scales{};
};

struct ModelSpec {
  int64_t n_layers = 0;
  int64_t hidden = 0;
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t ffn = 0;
  int64_t vocab = 0;
  float norm_eps = 1e-5f;
  int64_t max_context = 0;       // tokens
  std::vector<float> inv_freq;   // [head_dim / 2], after scaling
  float rope_attention_factor = 1.0f;
  bool tied_embeddings = false;
  bool qkv_bias = false;  // the projections to queries, keys and values add a bias
  std::string random_weights;  // "fp16" or "int4" (in groups of 128): made up, for benchmarks, and no files are read; else empty
  std::vector<std::string> files;
  std::map<std::string, TensorRef> tensors;  // canonical names, see src/model/spec.ts

  int64_t group() const { return n_heads / n_kv_heads; }
  bool has_int4() const;  // some matrix has 4 bits

  // Throws Error when a number is out of the range that the executors support.
  void validate() const;
};

}  // namespace quest
