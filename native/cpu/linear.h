// Matrix products over all threads, for any number of rows.
#pragma once

#include <cstdint>
#include <vector>

#include "core/dtype.h"
#include "cpu/kernels.h"
#include "cpu/thread_pool.h"

namespace quest::cpu {

struct Weight {
  const void* data;  // [n, k] dense
  DType dtype;
  int64_t n;
  int64_t k;
  // 4-bit weights: data holds Int4Rows::nibbles.
  const uint32_t* groups = nullptr;
  int group = 0;

  double bytes_per_element() const { return group > 0 ? 0.5 + 4.0 / group : static_cast<double>(dtype_bytes(dtype)); }
};

// One product of a group that shares its input (q, k, v; gate, up): y [m, ldy].
struct LinearOut {
  Weight w;
  float* y;
  int64_t ldy;
};

// y (+)= x w^T for each output of the group. x [m, ldx >= k]. Same bits for any m, grouping and thread count.
void linear(ThreadPool& pool, const Kernels& kernels, const float* x, int64_t ldx, int64_t m,
            const std::vector<LinearOut>& outs, bool add);

}  // namespace quest::cpu
