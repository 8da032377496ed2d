// Matrix products over all threads: cuts each product into tiles of rows x columns, which threads take one by one.
#include "cpu/linear.h"

#include <algorithm>

namespace quest::cpu {
namespace {

// A tile is this many rows at most (the kernel packs as many at a time), and about this much work.
constexpr int64_t kTileRows = 128;
constexpr double kTileUs = 20.0;
constexpr int64_t kColumnStep = 48;  // a multiple of every level's register tile

struct Tile {
  int32_t out;
  int64_t row, rows;
  int64_t column, columns;
};

// A guess of one core's time: 10 GB/s of weights or 50 GFLOP/s, whichever takes longer.
double estimate_us(int64_t m, int64_t n, const Weight& w) {
  const double elements = static_cast<double>(n) * static_cast<double>(w.k);
  return std::max(elements * w.bytes_per_element() / 10e3,
                  2.0 * static_cast<double>(m) * elements / 50e3);
}

void run_tile(const Kernels& kernels, const Tile& tile, const float* x, int64_t ldx, const LinearOut& out, bool add) {
  static thread_local std::vector<float> scratch;
  const size_t needed = static_cast<size_t>(kernels.gemm_scratch_floats(out.w.k));
  if (scratch.size() < needed) scratch.resize(needed);
  const auto* weights = static_cast<const unsigned char*>(out.w.data);
  const float* from = x + tile.row * ldx;
  float* to = out.y + tile.row * out.ldy + tile.column;
  const int64_t k = out.w.k;
  if (out.w.group > 0) {
    const Int4Rows rows{weights + tile.column * int4_row_bytes(k), out.w.groups + tile.column * (k / out.w.group), k, out.w.group};
    kernels.gemm_int4(from, ldx, tile.rows, rows, tile.columns, to, out.ldy, add, scratch.data());
    return;
  }
  kernels.gemm(from, ldx, tile.rows, weights + tile.column * k * static_cast<int64_t>(dtype_bytes(out.w.dtype)), out.w.dtype,
               tile.columns, k, to, out.ldy, add, scratch.data());
}

}  // namespace

void linear(ThreadPool& pool, const Kernels& kernels, const float* x, int64_t ldx, int64_t m,
            const std::vector<LinearOut>& outs, bool add) {
  double total_us = 0;
  for (const LinearOut& out : outs) total_us += estimate_us(m, out.w.n, out.w);
  const bool alone = pool.threads() == 1 || total_us < kTileUs;

  std::vector<Tile> tiles;
  for (size_t o = 0; o < outs.size(); ++o) {
    const Weight& w = outs[o].w;
    if (m <= 0 || w.n <= 0) continue;
    const int64_t rows = std::min(m, kTileRows);
    int64_t columns = w.n;
    if (!alone) {
      const double per_step_us = estimate_us(rows, kColumnStep, w);
      columns = std::max<int64_t>(1, static_cast<int64_t>(kTileUs / std::max(per_step_us, 1e-3))) * kColumnStep;
    }
    for (int64_t row = 0; row < m; row += rows) {
      for (int64_t column = 0; column < w.n; column += columns) {
        tiles.push_back({static_cast<int32_t>(o), row, std::min(rows, m - row), column,
                         std::min(columns, w.n - column)});
      }
    }
  }
  if (alone) {
    for (const Tile& tile : tiles) run_tile(kernels, tile, x, ldx, outs[static_cast<size_t>(tile.out)], add);
    return;
  }
  pool.parallel_for(static_cast<int64_t>(tiles.size()), [&](int64_t i, int) {
    const Tile& tile = tiles[static_cast<size_t>(i)];
    run_tile(kernels, tile, x, ldx, outs[static_cast<size_t>(tile.out)], add);
  });
}

}  // namespace quest::cpu
