// From run-time shapes to template arguments.
#pragma once

#include <type_traits>

#include "cuda/device.cuh"
#include "cuda/kernels.h"

namespace quest::cuda {

template <class F>
void with_half(Half type, F&& f) {
  if (type == Half::fp16) {
    f(__half{});
  } else {
    f(__nv_bfloat16{});
  }
}

template <class F>
void with_head_dim(int head_dim, F&& f) {
  switch (head_dim) {
    case 32: return f(std::integral_constant<int, 32>{});
    case 64: return f(std::integral_constant<int, 64>{});
    case 96: return f(std::integral_constant<int, 96>{});
    case 128: return f(std::integral_constant<int, 128>{});
    default: throw Error("E_UNSUPPORTED", "head_dim is " + std::to_string(head_dim) + ", the GPU kernels have 32, 64, 96 and 128");
  }
}

inline int log2_of(int power_of_two) {
  int shift = 0;
  while (1 << shift < power_of_two) ++shift;
  return shift;
}

}  // namespace quest::cuda
