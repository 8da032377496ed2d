// AWQ's search for where to cut a group's largest weights before it is rounded.
//
// A group of a row of W is cut to +-r max|w|, r = 1, 0.95, ... 0.55: the fifteen steps between its values become smaller, and what
// was cut is wrong by more. The best r has the least squared error of the group's share of the output over the calibration rows x,
//   sum_t (d . x_t)^2 = d^T M d   with d = rounded(cut(w)) - w and M = sum_t x_t x_t^T,
// so the calibration text enters as one small matrix M per group of inputs, however long it is. For each r this takes
// n k group multiply-adds, in linear().
// Test: quest_tests --gtest_filter='QuantizerClip*'.
#pragma once

#include <cstdint>
#include <vector>

#include "core/job.h"
#include "cpu/kernels.h"
#include "cpu/thread_pool.h"

namespace quest::cpu {

constexpr int kClipGrid = 10;
constexpr float clip_ratio(int step) { return 1.0f - static_cast<float>(step) / 20.0f; }

// Summed over groups: squared errors without and with the cut, and the square of the outputs themselves.
struct ClipError {
  double before = 0, after = 0, square = 0;
};

// M of each group, [k / group, group, group], for inputs x [rows, k] whose channel i is divided by scales[i].
std::vector<float> second_moments(ThreadPool& pool, const Kernels& kernels, const std::vector<float>& x, int64_t rows, int64_t k, int group,
                                  const std::vector<float>& scales);

// Cuts w [n, k] in place, group by group, and adds to `error`.
void clip_groups(ThreadPool& pool, const Kernels& kernels, const JobControl& job, std::vector<float>& w, int64_t n, int64_t k, int group,
                 const std::vector<float>& moments, ClipError& error);

}  // namespace quest::cpu
