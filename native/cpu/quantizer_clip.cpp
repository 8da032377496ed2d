#include "cpu/quantizer_clip.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "cpu/linear.h"
#include "cpu/quantizer.h"

namespace quest::cpu {

std::vector<float> second_moments(ThreadPool& pool, const Kernels& kernels, const std::vector<float>& x, int64_t rows, int64_t k, int group,
                                  const std::vector<float>& scales) {
  std::vector<float> moments(static_cast<size_t>(k * group)), columns(static_cast<size_t>(group * rows));
  for (int64_t first = 0; first < k; first += group) {
    pool.parallel_for(group, [&](int64_t i, int) {
      const float scale = scales[static_cast<size_t>(first + i)];
      for (int64_t r = 0; r < rows; ++r) columns[static_cast<size_t>(i * rows + r)] = x[static_cast<size_t>(r * k + first + i)] / scale;
    });
    linear(pool, kernels, columns.data(), rows, group, {{{columns.data(), DType::fp32, group, rows}, moments.data() + first * group, group}}, false);
  }
  return moments;
}

void clip_groups(ThreadPool& pool, const Kernels& kernels, const JobControl& job, std::vector<float>& w, int64_t n, int64_t k, int group,
                 const std::vector<float>& moments, ClipError& error) {
  const auto size = static_cast<size_t>(n * group);
  std::vector<float> whole(size), cut(size), wrong(size), product(size), largest(static_cast<size_t>(n));
  std::vector<double> square(static_cast<size_t>(n)), first(static_cast<size_t>(n)), least(static_cast<size_t>(n));
  std::vector<float> best(static_cast<size_t>(n));
  for (int64_t at = 0; at < k; at += group) {
    job.check();
    const float* moment = moments.data() + at * group;
    // d^T M d of each row of d [n, group]; M is symmetric.
    const auto weigh = [&](const std::vector<float>& d, const std::function<void(size_t row, double value)>& take) {
      linear(pool, kernels, d.data(), group, n, {{{moment, DType::fp32, group, group}, product.data(), group}}, false);
      pool.parallel_for(n, [&](int64_t j, int) {
        double sum = 0;
        for (int64_t i = j * group; i < (j + 1) * group; ++i) sum += static_cast<double>(d[static_cast<size_t>(i)]) * product[static_cast<size_t>(i)];
        take(static_cast<size_t>(j), sum);
      });
    };
    pool.parallel_for(n, [&](int64_t j, int) {
      const float* from = w.data() + j * k + at;
      std::copy(from, from + group, whole.data() + j * group);
      float max = 0;
      for (int64_t i = 0; i < group; ++i) max = std::max(max, std::fabs(from[i]));
      largest[static_cast<size_t>(j)] = max;
    });
    weigh(whole, [&](size_t j, double value) { square[j] = value; });
    for (int s = 0; s < kClipGrid; ++s) {
      pool.parallel_for(n, [&](int64_t j, int) {
        const float limit = largest[static_cast<size_t>(j)] * clip_ratio(s);
        for (int64_t i = j * group; i < (j + 1) * group; ++i) cut[static_cast<size_t>(i)] = std::clamp(whole[static_cast<size_t>(i)], -limit, limit);
      });
      wrong = rounded_values(pool, round_to_nearest(pool, cut, n, group, group), n, group, group);
      for (size_t i = 0; i < size; ++i) wrong[i] -= whole[i];
      weigh(wrong, [&](size_t j, double value) {
        if (s == 0) first[j] = value;
        if (s > 0 && !(value < least[j])) return;
        least[j] = value;
        best[j] = largest[j] * clip_ratio(s);
      });
    }
    for (int64_t j = 0; j < n; ++j) {
      const auto row = static_cast<size_t>(j);
      error.before += first[row];
      error.after += least[row];
      error.square += square[row];
      float* to = w.data() + j * k + at;
      for (int64_t i = 0; i < group; ++i) to[i] = std::clamp(to[i], -best[row], best[row]);
    }
  }
}

}  // namespace quest::cpu
