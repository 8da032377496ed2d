// Element types of weights in memory. Caches and activations of the CPU executor are fp32.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quest {

enum class DType : uint8_t { fp32, fp16, bf16 };

inline size_t dtype_bytes(DType t) { return t == DType::fp32 ? 4 : 2; }

inline const char* dtype_name(DType t) {
  return t == DType::fp32 ? "fp32" : t == DType::fp16 ? "fp16" : "bf16";
}

}  // namespace quest
