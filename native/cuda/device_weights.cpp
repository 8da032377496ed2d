#include "cuda/device_weights.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "cuda/int4.h"

namespace quest::cuda {

namespace {

constexpr size_t kStageBytes = 32 << 20;
constexpr size_t kAlign = 256;

size_t aligned(size_t n) { return (n + kAlign - 1) / kAlign * kAlign; }

float load_float(const unsigned char* from, DType dtype) {
  if (dtype == DType::fp32) {
    float f;
    std::memcpy(&f, from, 4);
    return f;
  }
  uint16_t bits;
  std::memcpy(&bits, from, 2);
  if (dtype == DType::bf16) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float f;
    std::memcpy(&f, &wide, 4);
    return f;
  }
  __half_raw raw;
  raw.x = bits;
  return __half2float(__half(raw));
}

void store_float(float f, DType dtype, unsigned char* to) {
  if (dtype == DType::fp32) {
    std::memcpy(to, &f, 4);
  } else if (dtype == DType::fp16) {
    const __half_raw raw = __float2half_rn(f);
    std::memcpy(to, &raw.x, 2);
  } else {
    const __nv_bfloat16_raw raw = __float2bfloat16_rn(f);
    std::memcpy(to, &raw.x, 2);
  }
}

// Copies tensors to the device in the order given, converting on the way; the copy of one buffer overlaps filling the other.
class Uploader {
 public:
  explicit Uploader(cudaStream_t stream) : stream_(stream) {
    for (int i = 0; i < 2; ++i) {
      stage_[i].resize(kStageBytes);
      check(cudaEventCreateWithFlags(&done_[i], cudaEventDisableTiming), "cudaEventCreate");
    }
  }
  ~Uploader() {
    cudaStreamSynchronize(stream_);
    for (cudaEvent_t e : done_) cudaEventDestroy(e);
  }

  void copy(const void* from, DType from_type, int64_t elements, DType to_type, unsigned char* to) {
    const size_t in = dtype_bytes(from_type), out = dtype_bytes(to_type);
    const auto* p = static_cast<const unsigned char*>(from);
    auto left = static_cast<size_t>(elements);
    while (left > 0) {
      const size_t n = std::min(left, kStageBytes / out);
      if (used_[slot_]) check(cudaEventSynchronize(done_[slot_]), "upload");
      unsigned char* stage = stage_[slot_].get();
      if (from_type == to_type) {
        std::memcpy(stage, p, n * in);
      } else {
        for (size_t i = 0; i < n; ++i) store_float(load_float(p + i * in, from_type), to_type, stage + i * out);
      }
      check(cudaMemcpyAsync(to, stage, n * out, cudaMemcpyHostToDevice, stream_), "upload");
      check(cudaEventRecord(done_[slot_], stream_), "upload");
      used_[slot_] = true;
      slot_ ^= 1;
      p += n * in;
      to += n * out;
      left -= n;
    }
  }

 private:
  cudaStream_t stream_;
  Pinned<unsigned char> stage_[2];
  cudaEvent_t done_[2];
  bool used_[2] = {false, false};
  int slot_ = 0;
};

// Checks what is put side by side: 4-bit projections of one input share their group, and none of them has 16 bits.
int common_group(const std::vector<const Tensor*>& parts) {
  for (const Tensor* t : parts) {
    if (t->group != parts[0]->group) {
      throw Error("E_QUANTIZATION", "projections of one input have groups of " + std::to_string(parts[0]->group) + " and " + std::to_string(t->group) +
                                        " weights (0: not quantised); the GPU needs them alike",
                  "use --device cpu");
    }
  }
  return static_cast<int>(parts[0]->group);
}

// 4-bit projections of one input: their files' words go to `raw` on the device, and from there into our layout.
void upload_int4(Uploader& uploader, cudaStream_t stream, const std::vector<Tensor>& parts, unsigned char* raw, unsigned char* to) {
  Int4PackParams p{};
  p.n_parts = static_cast<int>(parts.size());
  p.out = to;
  p.k = static_cast<int>(parts[0].cols);
  p.group = static_cast<int>(parts[0].group);
  p.interleaved = parts.size() == 2;
  size_t at = 0;
  const auto put = [&](const void* from, int64_t words) {
    unsigned char* place = raw + at;
    uploader.copy(from, DType::fp32, words, DType::fp32, place);
    at += aligned(static_cast<size_t>(words) * 4);
    return place;
  };
  for (size_t i = 0; i < parts.size(); ++i) {
    const Tensor& t = parts[i];
    const int64_t words = t.rows / 8, groups = t.cols / t.group;
    auto* weights = reinterpret_cast<uint32_t*>(put(t.data, t.cols * words));
    auto* zeros = reinterpret_cast<uint32_t*>(put(t.zeros, groups * words));
    auto* scales = reinterpret_cast<uint16_t*>(put(t.scales, groups * t.rows / 2));
    p.parts[i] = {weights, zeros, scales, static_cast<int>(t.rows)};
    p.n += static_cast<int>(t.rows);
  }
  int4_pack(p, {stream, false});
}

}  // namespace

DeviceWeights::DeviceWeights(const ModelSpec& spec, const Weights& weights, cudaStream_t stream)
    : type(weights.layers[0].q.dtype == DType::bf16 ? Half::bf16 : Half::fp16) {
  for (const LayerWeights& l : weights.layers) {
    for (const Tensor* t : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down}) {
      if (t->int4()) type = Half::fp16;  // what their kernels compute in
    }
  }
  place(spec, weights, stream);
}

DeviceWeights::DeviceWeights(const ModelSpec& spec, Half half, cudaStream_t stream, int group) : type(half) {
  // Tensors without data: shapes alone.
  const auto matrix = [](int64_t rows, int64_t cols) { return Tensor{nullptr, DType::fp16, rows, cols}; };
  const auto projection = [&](int64_t rows, int64_t cols) { return Tensor{nullptr, DType::fp16, rows, cols, group}; };
  Weights w;
  const int64_t q_dim = spec.n_heads * spec.head_dim, kv_dim = spec.n_kv_heads * spec.head_dim;
  w.embed = w.lm_head = matrix(spec.vocab, spec.hidden);
  w.norm = matrix(1, spec.hidden);
  for (int64_t i = 0; i < spec.n_layers; ++i) {
    w.layers.push_back({matrix(1, spec.hidden), projection(q_dim, spec.hidden), projection(kv_dim, spec.hidden), projection(kv_dim, spec.hidden),
                        projection(spec.hidden, q_dim), matrix(1, spec.hidden), projection(spec.ffn, spec.hidden), projection(spec.ffn, spec.hidden),
                        projection(spec.hidden, spec.ffn),
                        spec.qkv_bias ? matrix(1, q_dim) : Tensor{}, spec.qkv_bias ? matrix(1, kv_dim) : Tensor{},
                        spec.qkv_bias ? matrix(1, kv_dim) : Tensor{}});
  }
  place(spec, w, stream);
}

int64_t DeviceWeights::bytes_of(const ModelSpec& spec) {
  return static_cast<int64_t>(DeviceWeights(Half::fp16).place(spec, Weights::map(spec), nullptr, true));
}

size_t DeviceWeights::place(const ModelSpec& spec, const Weights& weights, cudaStream_t stream, bool measure) {
  const DType matrix = type == Half::bf16 ? DType::bf16 : DType::fp16;
  // Where everything goes, then the copies: all memory is taken at once, so that a model that does not fit says so first.
  std::vector<std::function<void(Uploader&, unsigned char*)>> copies;
  std::vector<std::function<void(unsigned char*)>> names;
  size_t total = 0;
  const auto put = [&](std::vector<const Tensor*> parts, DType as, auto&& name) {
    const size_t at = total;
    for (const Tensor* t : parts) {
      const int64_t elements = t->rows * t->cols;
      const size_t to = total;
      const float scale = t->rows > 1 ? 1.0f / std::sqrt(static_cast<float>(t->cols)) : 0.0f;
      copies.push_back([=, this](Uploader& u, unsigned char* base) {
        if (t->data) return u.copy(t->data, t->dtype, elements, as, base + to);
        // Norms are all ones, matrices keep a vector's length.
        fill_random({base + to, elements, scale, scale == 0 ? 1.0f : 0.0f, as == DType::fp32, type, static_cast<uint32_t>(to >> 8)}, {stream, false});
      });
      total += static_cast<size_t>(elements) * dtype_bytes(as);
    }
    names.push_back([=](unsigned char* base) { name(base + at); });
    total = aligned(total);
  };
  size_t raw_bytes = 0;
  Buffer<unsigned char> raw;
  // The projections of one input as one matrix.
  const auto put_matrix = [&](std::vector<const Tensor*> parts, auto&& matrix_of) {
    const int group = common_group(parts);
    if (group == 0) return put(std::move(parts), matrix, [=](unsigned char* p) { matrix_of() = {p, 0}; });
    int64_t n = 0;
    size_t files = 0;
    std::vector<Tensor> tensors;
    for (const Tensor* t : parts) {
      n += t->rows;
      files += t->bytes() + 3 * kAlign;
      tensors.push_back(*t);
    }
    const int64_t k = parts[0]->cols;
    const size_t at = total;
    copies.push_back([=, &raw](Uploader& u, unsigned char* base) {
      if (tensors[0].data) return upload_int4(u, stream, tensors, raw.get(), base + at);
      const float deviation = 1.0f / std::sqrt(static_cast<float>(k));
      int4_random({base + at, static_cast<int>(n), static_cast<int>(k), group, deviation, static_cast<uint32_t>(at >> 8)}, {stream, false});
    });
    names.push_back([=](unsigned char* base) { matrix_of() = {base + at, group}; });
    if (parts[0]->data) raw_bytes = std::max(raw_bytes, files);
    total = aligned(total + static_cast<size_t>(int4_bytes(n, k, group)));
  };
  const auto as_floats = [](unsigned char* p) { return reinterpret_cast<const float*>(p); };
  layers.resize(weights.layers.size());
  put({&weights.embed}, matrix, [this](unsigned char* p) { embed = p; });
  if (!spec.tied_embeddings) put({&weights.lm_head}, matrix, [this](unsigned char* p) { lm_head = p; });
  put({&weights.norm}, DType::fp32, [=, this](unsigned char* p) { norm = as_floats(p); });
  const Tensor frequencies{spec.inv_freq.data(), DType::fp32, 1, static_cast<int64_t>(spec.inv_freq.size())};
  put({&frequencies}, DType::fp32, [=, this](unsigned char* p) { inv_freq = as_floats(p); });
  for (size_t i = 0; i < layers.size(); ++i) {
    const LayerWeights& l = weights.layers[i];
    put({&l.attn_norm}, DType::fp32, [=, this](unsigned char* p) { layers[i].attn_norm = as_floats(p); });
    put_matrix({&l.q, &l.k, &l.v}, [=, this]() -> DeviceMatrix& { return layers[i].qkv; });
    layers[i].qkv_bias = nullptr;
    if (spec.qkv_bias) put({&l.q_bias, &l.k_bias, &l.v_bias}, DType::fp32, [=, this](unsigned char* p) { layers[i].qkv_bias = as_floats(p); });
    put_matrix({&l.o}, [=, this]() -> DeviceMatrix& { return layers[i].o; });
    put({&l.ffn_norm}, DType::fp32, [=, this](unsigned char* p) { layers[i].ffn_norm = as_floats(p); });
    put_matrix({&l.gate, &l.up}, [=, this]() -> DeviceMatrix& { return layers[i].gate_up; });
    put_matrix({&l.down}, [=, this]() -> DeviceMatrix& { return layers[i].down; });
  }
  if (measure) return total;
  memory_.resize(total);
  for (const auto& name : names) name(memory_.get());
  if (spec.tied_embeddings) lm_head = embed;
  raw.resize(raw_bytes);
  Uploader uploader(stream);
  for (const auto& copy : copies) copy(uploader, memory_.get());
  if (raw_bytes > 0) check(cudaStreamSynchronize(stream), "upload");  // before `raw` goes
  return total;
}

}  // namespace quest::cuda
