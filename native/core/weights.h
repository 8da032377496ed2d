// The checkpoint's tensors as pointers into mapped files, checked against the model's shapes and the files' sizes.
#pragma once

#include <cstdint>
#include <vector>

#include "core/mapped_file.h"
#include "core/model_spec.h"

namespace quest {

struct Tensor {
  const void* data = nullptr;  // may be unaligned
  DType dtype = DType::fp32;
  int64_t rows = 0;
  int64_t cols = 0;  // a vector has one row
  // 4-bit matrices (core/awq.h): data holds the packed weights, dtype is that of the scales.
  int64_t group = 0;
  const void* zeros = nullptr;
  const void* scales = nullptr;

  bool int4() const { return group > 0; }
  // As stored in the files.
  size_t bytes() const {
    const auto elements = static_cast<size_t>(rows * cols);
    if (!int4()) return elements * dtype_bytes(dtype);
    const size_t groups = elements / static_cast<size_t>(group);
    return elements / 2 + groups / 2 + groups * dtype_bytes(dtype);
  }
};

struct LayerWeights {
  Tensor attn_norm;  // [hidden]
  Tensor q;          // [n_heads * head_dim, hidden]
  Tensor k, v;       // [n_kv_heads * head_dim, hidden]
  Tensor o;          // [hidden, n_heads * head_dim]
  Tensor ffn_norm;   // [hidden]
  Tensor gate, up;   // [ffn, hidden]
  Tensor down;       // [hidden, ffn]
  Tensor q_bias;     // [n_heads * head_dim]; without data where the model has none, as the next two
  Tensor k_bias, v_bias;  // [n_kv_heads * head_dim]
};

struct Weights {
  std::vector<MappedFile> files;
  std::vector<uint16_t> made;  // instead of files: random weights
  Tensor embed;    // [vocab, hidden]
  Tensor norm;     // [hidden]
  Tensor lm_head;  // [vocab, hidden]; the embedding when tied
  std::vector<LayerWeights> layers;

  int64_t bytes() const;  // distinct tensors only

  // Maps the files and resolves every tensor; makes up the weights where the spec asks for that. Throws Error that names the tensor, what was found and what was wanted.
  static Weights map(const ModelSpec& spec);
};

// As spec.random_weights says. Throws Error E_UNSUPPORTED for other types than "fp16" and "int4".
Weights random_weights(const ModelSpec& spec);

}  // namespace quest
