#include "cpu/quantizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "core/awq.h"
#include "core/half.h"
#include "cpu/linear.h"
#include "cpu/quantizer_clip.h"
#include "cpu/quantizer_pack.h"
#include "cpu/rope.h"

namespace quest::cpu {

namespace {

constexpr int kGrid = 20;           // values of alpha: 0, 1/20, ... 19/20
constexpr int64_t kRowsPerTask = 16;

std::vector<unsigned char> halves(const float* values, int64_t n, const std::string& name) {
  std::vector<unsigned char> out(static_cast<size_t>(n) * 2);
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t h = fp16_from_float(values[i]);
    if ((h & 0x7c00u) == 0x7c00u) {
      throw Error("E_QUANTIZE", "tensor " + name + " holds " + std::to_string(values[i]) + ", which fp16 cannot hold", "AutoAWQ's layout is fp16");
    }
    std::memcpy(out.data() + 2 * i, &h, 2);
  }
  return out;
}

// Scales around 1: no channel gains without another losing.
void center(std::vector<float>& scales) {
  const auto [low, high] = std::minmax_element(scales.begin(), scales.end());
  const float middle = std::sqrt(*low * *high);
  for (float& s : scales) {
    s /= middle;
    if (!std::isfinite(s) || s <= 0) s = 1;
  }
}

}  // namespace

// A layer's matrices in fp32; biases are empty where the model has none.
struct Quantizer::Layer {
  int64_t index;
  const LayerWeights& w;
  Floats q, k, v, o, gate, up, down, q_bias, k_bias, v_bias;
};

Quantizer::Quantizer(const ModelSpec& spec, std::vector<int32_t> calibration, const QuantizeOptions& options, int threads)
    : spec_(spec), options_(options), weights_(Weights::map(spec_)), kernels_(active_kernels()), pool_(threads) {
  const int64_t q_dim = spec.n_heads * spec.head_dim, kv_dim = spec.n_kv_heads * spec.head_dim, hidden = spec.hidden;
  for (const LayerWeights& l : weights_.layers) {
    for (const Tensor* t : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down}) {
      if (t->int4()) throw Error("E_QUANTIZE", "the model has 4-bit weights already", "quantise the 16-bit model that they came from");
    }
  }
  const struct {
    const char* name;
    int64_t rows, cols;
  } shapes[] = {{"q", q_dim, hidden}, {"k", kv_dim, hidden}, {"o", hidden, q_dim}, {"gate", spec.ffn, hidden}, {"down", hidden, spec.ffn}};
  for (const auto& s : shapes) check_int4(s.name, s.rows, s.cols, options.group, DType::fp16);
  if (!options.activation_aware) return;
  if (options.sequence < 1) throw Error("E_ARGUMENT", "sequence is " + std::to_string(options.sequence) + ", wanted at least 1");
  tokens_ = static_cast<int64_t>(calibration.size()) / options.sequence * options.sequence;
  if (tokens_ == 0) {
    throw Error("E_QUANTIZE", "the calibration text has " + std::to_string(calibration.size()) + " tokens, wanted at least " + std::to_string(options.sequence),
                "give a longer text, or use round to nearest");
  }
  x_.resize(static_cast<size_t>(tokens_ * hidden));
  const size_t stride = static_cast<size_t>(hidden) * dtype_bytes(weights_.embed.dtype);
  for (int64_t i = 0; i < tokens_; ++i) {
    const int32_t id = calibration[static_cast<size_t>(i)];
    if (id < 0 || id >= spec.vocab) throw Error("E_TOKEN_ID", "id " + std::to_string(id) + " of the calibration text is not in the vocabulary");
    kernels_.widen(static_cast<const unsigned char*>(weights_.embed.data) + static_cast<size_t>(id) * stride, weights_.embed.dtype, hidden,
                   x_.data() + i * hidden);
  }
}

Quantizer::Floats Quantizer::matrix(const Tensor& t) const {
  Floats out(static_cast<size_t>(t.rows * t.cols));
  if (t.data) kernels_.widen(t.data, t.dtype, t.rows * t.cols, out.data());
  return out;
}

void Quantizer::norm(const Tensor& weight, const Floats& x, Floats& out) {
  out.resize(x.size());
  pool_.parallel_for((tokens_ + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
    for (int64_t r = task * kRowsPerTask; r < std::min(tokens_, (task + 1) * kRowsPerTask); ++r) {
      kernels_.rmsnorm(x.data() + r * spec_.hidden, weight.data, weight.dtype, spec_.hidden, spec_.norm_eps, out.data() + r * spec_.hidden);
    }
  });
}

void Quantizer::multiply(const Floats& in, const Floats& w, int64_t n, int64_t k, Floats& out, bool add) {
  out.resize(static_cast<size_t>(tokens_ * n));
  linear(pool_, kernels_, in.data(), k, tokens_, {{{w.data(), DType::fp32, n, k}, out.data(), n}}, add);
}

// Causal attention within each sequence. q and k arrive unrotated.
void Quantizer::attention(const Layer& layer, Floats q, Floats k, const Floats& v, Floats& out) {
  const int64_t d = spec_.head_dim, heads = spec_.n_heads, kv_heads = spec_.n_kv_heads, length = options_.sequence, half = d / 2;
  out.assign(static_cast<size_t>(tokens_ * heads * d), 0.0f);
  const auto add = [](float* row, const Floats& bias) {
    for (size_t i = 0; i < bias.size(); ++i) row[i] += bias[i];
  };
  pool_.parallel_for(tokens_, [&](int64_t r, int) {
    Floats cos(static_cast<size_t>(half)), sin(static_cast<size_t>(half));
    rope_angles(spec_, r % length, cos.data(), sin.data());
    add(q.data() + r * heads * d, layer.q_bias);
    add(k.data() + r * kv_heads * d, layer.k_bias);
    rotate(q.data() + r * heads * d, heads, d, cos.data(), sin.data());
    rotate(k.data() + r * kv_heads * d, kv_heads, d, cos.data(), sin.data());
  });
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  pool_.parallel_for(tokens_ / length * heads, [&](int64_t task, int) {
    const int64_t head = task % heads, first = task / heads * length, kv = head / spec_.group();
    Floats p(static_cast<size_t>(length));
    for (int64_t i = 0; i < length; ++i) {
      const int64_t r = first + i;
      float* to = out.data() + (r * heads + head) * d;
      kernels_.dot_rows(q.data() + (r * heads + head) * d, d, 1, k.data() + (first * kv_heads + kv) * d, kv_heads * d, i + 1, d, scale, p.data(), length);
      float max = 0;
      const float sum = kernels_.exp_span(p.data(), i + 1, &max);
      for (int64_t j = 0; j <= i; ++j) p[static_cast<size_t>(j)] /= sum;
      kernels_.axpy_rows(p.data(), length, 1, v.data() + (first * kv_heads + kv) * d, kv_heads * d, i + 1, d, to, d);
      // Probabilities add up to one, so a bias of the values passes through.
      if (!layer.v_bias.empty()) {
        for (int64_t c = 0; c < d; ++c) to[c] += layer.v_bias[static_cast<size_t>(kv * d + c)];
      }
    }
  });
}

void Quantizer::attend(const Layer& layer, const Floats& in, const Floats& q, const Floats& k, const Floats& v, Floats& out) {
  const int64_t q_dim = spec_.n_heads * spec_.head_dim, kv_dim = spec_.n_kv_heads * spec_.head_dim;
  Floats qs, ks, vs;
  multiply(in, q, q_dim, spec_.hidden, qs);
  multiply(in, k, kv_dim, spec_.hidden, ks);
  multiply(in, v, kv_dim, spec_.hidden, vs);
  attention(layer, std::move(qs), std::move(ks), vs, out);
}

Quantizer::Floats Quantizer::feed_forward(const Floats& in, const Floats& gate, const Floats& up) {
  Floats g, u;
  multiply(in, gate, spec_.ffn, spec_.hidden, g);
  multiply(in, up, spec_.ffn, spec_.hidden, u);
  pool_.parallel_for(tokens_, [&](int64_t r, int) { kernels_.silu_mul(g.data() + r * spec_.ffn, u.data() + r * spec_.ffn, spec_.ffn); });
  return g;
}

Quantizer::Layer Quantizer::load(int64_t index) const {
  const LayerWeights& w = weights_.layers[static_cast<size_t>(index)];
  const auto finite = [&](const char* name, const Tensor& t) {
    Floats out = matrix(t);
    for (float v : out) {
      if (!std::isfinite(v)) {
        throw Error("E_QUANTIZE", "layers." + std::to_string(index) + "." + name + " holds " + std::to_string(v) + ", which no group of sixteen values can stand for",
                    "the checkpoint is broken; fetch it again");
      }
    }
    return out;
  };
  const auto bias = [&](const Tensor& t) { return t.data ? matrix(t) : Floats{}; };
  return {index, w, finite("q", w.q), finite("k", w.k), finite("v", w.v), finite("o", w.o), finite("gate", w.gate), finite("up", w.up),
          finite("down", w.down), bias(w.q_bias), bias(w.k_bias), bias(w.v_bias)};
}

QuantizedLayer Quantizer::next(const JobControl& job) {
  if (next_ >= spec_.n_layers) throw Error("E_QUANTIZE", "all layers are done");
  Layer layer = load(next_);
  const int64_t d = spec_.head_dim, hidden = spec_.hidden, q_dim = spec_.n_heads * d, kv_dim = spec_.n_kv_heads * d, ffn = spec_.ffn;
  const int group = options_.group;
  QuantizedLayer out;
  Floats attn_norm = matrix(layer.w.attn_norm), ffn_norm = matrix(layer.w.ffn_norm);
  const bool clip = options_.activation_aware && options_.clip;
  const int64_t steps = 1 + (options_.activation_aware ? 4 * kGrid : 0) + (clip ? 4 : 0);
  int64_t done = 0;
  const auto step = [&] {
    job.check();
    job.report(next_ * steps + ++done, spec_.n_layers * steps);
  };

  const auto scale_columns = [&](Floats& w, int64_t n, int64_t k, const Floats& s) {
    pool_.parallel_for(n, [&](int64_t j, int) {
      for (int64_t i = 0; i < k; ++i) w[static_cast<size_t>(j * k + i)] *= s[static_cast<size_t>(i)];
    });
  };
  const auto divide_rows = [&](Floats& w, int64_t n, int64_t k, const Floats& s) {
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t i = 0; i < k; ++i) w[static_cast<size_t>(j * k + i)] /= s[static_cast<size_t>(j)];
    }
  };

  if (options_.activation_aware) {
    Floats in, attended, attn_out, between = x_, ffn_in, act, ffn_out;
    norm(layer.w.attn_norm, x_, in);
    attend(layer, in, layer.q, layer.k, layer.v, attended);
    multiply(attended, layer.o, hidden, q_dim, attn_out);
    for (size_t i = 0; i < between.size(); ++i) between[i] += attn_out[i];
    norm(layer.w.ffn_norm, between, ffn_in);
    act = feed_forward(ffn_in, layer.gate, layer.up);
    multiply(act, layer.down, hidden, ffn, ffn_out);

    struct Part {
      const Floats* w;
      int64_t n;
    };
    // The scales for matrices of one input `x` [tokens, k] with the least error of `output` against `want`. `kind` maps a channel
    // to the first of those that must have its scale.
    const auto search = [&](const char* name, const Floats& x, int64_t k, const std::vector<Part>& parts, const Floats& want,
                            const std::function<int64_t(int64_t)>& kind,
                            const std::function<Floats(const Floats& scaled, const std::vector<Floats>& rounded)>& output) {
      Floats mean(static_cast<size_t>(k), 0.0f), best(static_cast<size_t>(k), 1.0f);
      for (int64_t r = 0; r < tokens_; ++r) {
        for (int64_t i = 0; i < k; ++i) mean[static_cast<size_t>(kind(i))] += std::abs(x[static_cast<size_t>(r * k + i)]);
      }
      double square = 0, least = std::numeric_limits<double>::infinity(), first = 0;
      for (float v : want) square += static_cast<double>(v) * v;
      for (int g = 0; g < kGrid; ++g) {
        Floats s(static_cast<size_t>(k));
        for (int64_t i = 0; i < k; ++i) {
          const float m = mean[static_cast<size_t>(kind(i))] / static_cast<float>(tokens_);
          s[static_cast<size_t>(i)] = std::max(std::pow(m, static_cast<float>(g) / kGrid), 1e-4f);
        }
        center(s);
        Floats scaled(x.size());
        pool_.parallel_for(tokens_, [&](int64_t r, int) {
          for (int64_t i = 0; i < k; ++i) scaled[static_cast<size_t>(r * k + i)] = x[static_cast<size_t>(r * k + i)] / s[static_cast<size_t>(i)];
        });
        std::vector<Floats> rounded;
        for (const Part& part : parts) {
          Floats w = *part.w;
          scale_columns(w, part.n, k, s);
          rounded.push_back(rounded_values(pool_, round_to_nearest(pool_, w, part.n, k, group), part.n, k, group));
        }
        const Floats got = output(scaled, rounded);
        double error = 0;
        for (size_t i = 0; i < want.size(); ++i) error += (static_cast<double>(got[i]) - want[i]) * (static_cast<double>(got[i]) - want[i]);
        if (g == 0) first = error;
        if (error < least) {
          least = error;
          best = s;
        }
        step();
      }
      out.errors[name] = {first / square, least / square};
      return best;
    };
    const auto itself = [](int64_t i) { return i; };

    const Floats for_qkv = search("qkv", in, hidden, {{&layer.q, q_dim}, {&layer.k, kv_dim}, {&layer.v, kv_dim}}, attn_out, itself,
                                  [&](const Floats& scaled, const std::vector<Floats>& w) {
                                    Floats a, y;
                                    attend(layer, scaled, w[0], w[1], w[2], a);
                                    multiply(a, layer.o, hidden, q_dim, y);
                                    return y;
                                  });
    const auto value_channel = [&](int64_t i) { return i / d / spec_.group() * spec_.group() * d + i % d; };
    const auto own_output = [&](int64_t k) {
      return [&, k](const Floats& scaled, const std::vector<Floats>& w) {
        Floats y;
        multiply(scaled, w[0], hidden, k, y);
        return y;
      };
    };
    const Floats for_o = search("o", attended, q_dim, {{&layer.o, hidden}}, attn_out, value_channel, own_output(q_dim));
    const Floats for_gate_up = search("gate_up", ffn_in, hidden, {{&layer.gate, ffn}, {&layer.up, ffn}}, ffn_out, itself,
                                      [&](const Floats& scaled, const std::vector<Floats>& w) {
                                        Floats y;
                                        multiply(feed_forward(scaled, w[0], w[1]), layer.down, hidden, ffn, y);
                                        return y;
                                      });
    const Floats for_down = search("down", act, ffn, {{&layer.down, hidden}}, ffn_out, itself, own_output(ffn));

    for (size_t i = 0; i < x_.size(); ++i) x_[i] = between[i] + ffn_out[i];
    for (int64_t i = 0; i < hidden; ++i) {
      attn_norm[static_cast<size_t>(i)] /= for_qkv[static_cast<size_t>(i)];
      ffn_norm[static_cast<size_t>(i)] /= for_gate_up[static_cast<size_t>(i)];
    }
    Floats for_v(static_cast<size_t>(kv_dim));
    for (int64_t i = 0; i < kv_dim; ++i) for_v[static_cast<size_t>(i)] = for_o[static_cast<size_t>(i / d * spec_.group() * d + i % d)];
    scale_columns(layer.q, q_dim, hidden, for_qkv);
    scale_columns(layer.k, kv_dim, hidden, for_qkv);
    scale_columns(layer.v, kv_dim, hidden, for_qkv);
    divide_rows(layer.v, kv_dim, hidden, for_v);
    if (!layer.v_bias.empty()) divide_rows(layer.v_bias, kv_dim, 1, for_v);
    scale_columns(layer.o, hidden, q_dim, for_o);
    scale_columns(layer.gate, ffn, hidden, for_gate_up);
    scale_columns(layer.up, ffn, hidden, for_gate_up);
    divide_rows(layer.up, ffn, hidden, for_down);
    scale_columns(layer.down, hidden, ffn, for_down);

    if (clip) {
      ClipError error;
      const auto cut = [&](const Floats& x, int64_t k, const Floats& scales, const std::vector<std::pair<Floats*, int64_t>>& parts) {
        const Floats moments = second_moments(pool_, kernels_, x, tokens_, k, group, scales);
        for (const auto& [w, n] : parts) clip_groups(pool_, kernels_, job, *w, n, k, group, moments, error);
        step();
      };
      cut(in, hidden, for_qkv, {{&layer.v, kv_dim}});
      cut(attended, q_dim, for_o, {{&layer.o, hidden}});
      cut(ffn_in, hidden, for_gate_up, {{&layer.gate, ffn}, {&layer.up, ffn}});
      cut(act, ffn, for_down, {{&layer.down, hidden}});
      out.errors["clip"] = {error.before / error.square, error.after / error.square};
    }
  }

  const std::string prefix = "layers." + std::to_string(next_) + ".";
  const auto put = [&](const char* name, Floats& w, int64_t n, int64_t k) {
    job.check();
    const RoundedMatrix m = round_to_nearest(pool_, w, n, k, group);
    out.tensors[std::string(name) + ".weights"] = pack_words(m.q, n, k);
    out.tensors[std::string(name) + ".zeros"] = pack_words(m.zeros, n, k / group);
    out.tensors[std::string(name) + ".scales"] = pack_scales(m.scales, n, k / group);
    w = {};
  };
  put("q", layer.q, q_dim, hidden);
  put("k", layer.k, kv_dim, hidden);
  put("v", layer.v, kv_dim, hidden);
  put("o", layer.o, hidden, q_dim);
  put("gate", layer.gate, ffn, hidden);
  put("up", layer.up, ffn, hidden);
  put("down", layer.down, hidden, ffn);
  const auto vector = [&](const char* name, const Floats& v) {
    if (!v.empty()) out.tensors[name] = halves(v.data(), static_cast<int64_t>(v.size()), prefix + name);
  };
  vector("attn_norm", attn_norm);
  vector("ffn_norm", ffn_norm);
  vector("q_bias", layer.q_bias);
  vector("k_bias", layer.k_bias);
  vector("v_bias", layer.v_bias);
  step();
  ++next_;
  return out;
}

std::vector<unsigned char> Quantizer::plain(const std::string& name, int64_t first_row, int64_t rows) const {
  const Tensor* t = name == "embed" ? &weights_.embed : name == "norm" ? &weights_.norm : name == "lm_head" ? &weights_.lm_head : nullptr;
  if (!t) throw Error("E_ARGUMENT", "tensor is \"" + name + "\", wanted embed, norm or lm_head");
  if (first_row < 0 || rows < 0 || first_row > t->rows - rows) throw Error("E_ARGUMENT", name + " has " + std::to_string(t->rows) + " rows");
  const int64_t n = rows * t->cols;
  Floats values(static_cast<size_t>(n));
  kernels_.widen(static_cast<const unsigned char*>(t->data) + static_cast<size_t>(first_row * t->cols) * dtype_bytes(t->dtype), t->dtype, n, values.data());
  return halves(values.data(), n, name);
}

}  // namespace quest::cpu
