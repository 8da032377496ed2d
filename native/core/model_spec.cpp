#include "core/model_spec.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace quest {

namespace {

void in_range(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    throw Error("E_MODEL_SPEC", std::string(name) + " is " + std::to_string(value) + ", wanted " + std::to_string(low) +
                                    " to " + std::to_string(high));
  }
}

}  // namespace

void ModelSpec::validate() const {
  in_range("n_layers", n_layers, 1, 1024);
  in_range("hidden", hidden, 1, 1 << 20);
  in_range("n_heads", n_heads, 1, 4096);
  in_range("n_kv_heads", n_kv_heads, 1, n_heads);
  in_range("ffn", ffn, 1, 1 << 22);
  in_range("vocab", vocab, 1, 1 << 24);
  in_range("max_context", max_context, 1, 1 << 28);
  if (n_heads % n_kv_heads != 0) {
    throw Error("E_MODEL_SPEC", std::to_string(n_heads) + " query heads cannot share " + std::to_string(n_kv_heads) +
                                    " KV heads evenly");
  }
  in_range("head_dim", head_dim, 8, 256);
  if (head_dim % 8 != 0) throw Error("E_MODEL_SPEC", "head_dim is " + std::to_string(head_dim) + ", wanted a multiple of 8");
  if (static_cast<int64_t>(inv_freq.size()) != head_dim / 2) {
    throw Error("E_MODEL_SPEC", "rope has " + std::to_string(inv_freq.size()) + " frequencies, wanted " +
                                    std::to_string(head_dim / 2));
  }
  for (float f : inv_freq) {
    if (!std::isfinite(f)) throw Error("E_MODEL_SPEC", "a rope frequency is not finite");
  }
  if (!std::isfinite(rope_attention_factor) || !std::isfinite(norm_eps) || norm_eps < 0) {
    throw Error("E_MODEL_SPEC", "rope attention factor and norm_eps must be finite");
  }
}

bool ModelSpec::has_int4() const {
  return random_weights == "int4" || std::any_of(tensors.begin(), tensors.end(), [](const auto& t) { return t.second.group > 0; });
}

}  // namespace quest
