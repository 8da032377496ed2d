// A model's 4-bit matrices in the order in which the kernels read them (Int4Rows), made once from the checkpoint's mapped files.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "core/weights.h"
#include "cpu/linear.h"

namespace quest::cpu {

class Int4Weights {
 public:
  // Reshuffles every 4-bit matrix of the layers.
  Int4Weights(const Weights& weights, ThreadPool& pool);

  // Any matrix as linear() takes it: reshuffled where it has 4 bits, as it lies in its file otherwise.
  Weight of(const Tensor& t) const;

  // What the matrices take more (or less) than in their files.
  int64_t extra_bytes() const { return extra_bytes_; }

 private:
  struct Free {
    void operator()(unsigned char* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  struct Matrix {
    std::unique_ptr<unsigned char, Free> memory;
    Weight weight;
  };
  Matrix reshuffle(const Tensor& t, ThreadPool& pool);

  std::map<const void*, Matrix> matrices_;  // by where the file is mapped
  int64_t extra_bytes_ = 0;
};

}  // namespace quest::cpu
