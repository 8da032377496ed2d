#include "core/weights.h"

#include <string>

#include "core/awq.h"
#include "core/error.h"

namespace quest {

namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string s = "[";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + "]";
}

// rows 0 means a vector of `cols`.
Tensor resolve(const ModelSpec& spec, const std::vector<MappedFile>& files, const std::string& name, int64_t rows,
               int64_t cols) {
  const auto it = spec.tensors.find(name);
  if (it == spec.tensors.end()) throw Error("E_TENSOR_MISSING", "the checkpoint has no tensor " + name);
  const TensorRef& ref = it->second;
  const std::vector<int64_t> want = rows ? std::vector<int64_t>{rows, cols} : std::vector<int64_t>{cols};
  if (ref.shape != want) {
    throw Error("E_TENSOR_SHAPE", "tensor " + name + " has shape " + shape_text(ref.shape) + ", wanted " + shape_text(want));
  }
  const auto place = [&](const Place& at, size_t bytes) {
    if (at.file < 0 || at.file >= static_cast<int64_t>(files.size())) {
      throw Error("E_TENSOR_RANGE", "tensor " + name + " names file " + std::to_string(at.file) + " of " +
                                        std::to_string(files.size()));
    }
    const MappedFile& file = files[static_cast<size_t>(at.file)];
    if (at.offset > file.size() || bytes > file.size() - at.offset) {
      throw Error("E_TENSOR_RANGE", "tensor " + name + " ends at byte " + std::to_string(at.offset + bytes) + " of " +
                                        file.path() + ", which has " + std::to_string(file.size()),
                  "the file may be truncated: download it again");
    }
    return file.data() + at.offset;
  };
  Tensor t;
  t.dtype = ref.dtype;
  t.rows = rows ? rows : 1;
  t.cols = cols;
  if (ref.group != 0) {
    check_int4(name, rows, cols, ref.group, ref.dtype);
    t.group = ref.group;
    const auto elements = static_cast<size_t>(rows * cols), groups = elements / static_cast<size_t>(ref.group);
    t.data = place(ref, elements / 2);
    t.zeros = place(ref.zeros, groups / 2);
    t.scales = place(ref.scales, groups * dtype_bytes(ref.dtype));
  } else {
    t.data = place(ref, t.bytes());
  }
  return t;
}

}  // namespace

Weights Weights::map(const ModelSpec& spec) {
  spec.validate();
  if (!spec.random_weights.empty()) return random_weights(spec);
  Weights w;
  for (const auto& path : spec.files) w.files.emplace_back(path);
  const auto get = [&](const std::string& name, int64_t rows, int64_t cols) {
    return resolve(spec, w.files, name, rows, cols);
  };
  const int64_t q_dim = spec.n_heads * spec.head_dim;
  const int64_t kv_dim = spec.n_kv_heads * spec.head_dim;
  w.embed = get("embed", spec.vocab, spec.hidden);
  w.norm = get("norm", 0, spec.hidden);
  w.lm_head = spec.tied_embeddings ? w.embed : get("lm_head", spec.vocab, spec.hidden);
  for (int64_t i = 0; i < spec.n_layers; ++i) {
    const std::string p = "layers." + std::to_string(i) + ".";
    LayerWeights l;
    l.attn_norm = get(p + "attn_norm", 0, spec.hidden);
    l.q = get(p + "q", q_dim, spec.hidden);
    l.k = get(p + "k", kv_dim, spec.hidden);
    l.v = get(p + "v", kv_dim, spec.hidden);
    l.o = get(p + "o", spec.hidden, q_dim);
    l.ffn_norm = get(p + "ffn_norm", 0, spec.hidden);
    l.gate = get(p + "gate", spec.ffn, spec.hidden);
    l.up = get(p + "up", spec.ffn, spec.hidden);
    l.down = get(p + "down", spec.hidden, spec.ffn);
    if (spec.qkv_bias) {
      l.q_bias = get(p + "q_bias", 0, q_dim);
      l.k_bias = get(p + "k_bias", 0, kv_dim);
      l.v_bias = get(p + "v_bias", 0, kv_dim);
    }
    w.layers.push_back(l);
  }
  return w;
}

int64_t Weights::bytes() const {
  size_t n = embed.bytes() + norm.bytes() + (lm_head.data == embed.data ? 0 : lm_head.bytes());
  for (const LayerWeights& l : layers) {
    for (const Tensor* t : {&l.attn_norm, &l.q, &l.k, &l.v, &l.o, &l.ffn_norm, &l.gate, &l.up, &l.down, &l.q_bias, &l.k_bias,
                            &l.v_bias}) {
      n += t->bytes();
    }
  }
  return static_cast<int64_t>(n);
}

}  // namespace quest
