// What `quest bench kernels` has no row for: the variants of kernels beside each other (fused and in a chain, own product and
// cuBLAS, int4, ways to cut attention into blocks). Timed as there, by time_graph in cuda/bench.h.
//
//   quest_cuda_bench [attention] [gemv] [int4] [gemm] [prefill] [sweep]   all but the last when none is named
//
// Attention runs over several copies of a layer in turn, so that no cache line of one is left from the last time. Percentages
// are of the read bandwidth measured in the same run.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "cuda/bench.h"
#include "cuda/blas.h"
#include "cuda/int4.h"

using namespace quest;
using namespace quest::cuda;

namespace {

int sms = 0;
double read_bandwidth = 0;  // bytes per second
cudaStream_t stream = nullptr;
bool overlap = true, fuses = true;
Launch here() { return {stream, overlap}; }

// Time of one unit of `work`, which enqueues `units` of them.
KernelTime time_units(int units, const std::function<void()>& work) { return time_graph(stream, units, {}, {}, work); }

void print(const char* what, const std::string& shape, KernelTime t, double bytes, double flops = 0) {
  std::printf("%-28s %-44s %9.2f us  +-%4.1f%%", what, shape.c_str(), t.median_us, t.noise_pct);
  if (bytes > 0) std::printf("  %8.1f MB  %6.1f%% of read bandwidth", bytes / 1e6, 100 * bytes / t.median_us * 1e6 / read_bandwidth);
  if (flops > 0) std::printf("  %6.0f TFLOP/s", flops / t.median_us / 1e6);
  std::printf("\n");
  std::fflush(stdout);
}

void fill(void* out, int64_t n, float scale, uint32_t seed) { fill_random({out, n, scale, 0, false, Half::fp16, seed}, here()); }

void bandwidth() {
  const int64_t bytes = int64_t{2} << 30;
  Buffer<uint16_t> data(static_cast<size_t>(bytes / 2));
  Buffer<uint32_t> sink(1);
  fill(data.get(), bytes / 2, 1, 1);
  const KernelTime t = time_units(1, [&] { read_all({data.get(), bytes, sink.get(), sms}, here()); });
  read_bandwidth = static_cast<double>(bytes) / t.median_us * 1e6;
  std::printf("%-28s %-44s %9.2f us  +-%4.1f%%  %.0f GB/s\n", "read", "2 GiB", t.median_us, t.noise_pct, read_bandwidth / 1e9);
}

// One layer's attention at one context, in every way it can be read. With `sweep`: over ways to cut it into blocks.
void attention(int heads, int kv_heads, int context, const std::vector<int>& budgets, bool sweep = false) {
  const int d = 128, page = 16, pages = context / page;
  const int64_t kv_elements = int64_t{pages} * kv_heads * 2 * page * d, meta_elements = int64_t{pages} * kv_heads * 2 * d;
  // Enough copies that the smallest read, once around, is four times the L2 of 50 MB.
  const double smallest = 2.0 * 2 * d * kv_heads * (budgets[0] + pages);
  const int copies = std::clamp(static_cast<int>(200e6 / smallest) + 1, 2, 24);
  Buffer<uint16_t> kv(static_cast<size_t>(kv_elements * copies)), metadata(static_cast<size_t>(meta_elements * copies));
  fill(kv.get(), kv_elements * copies, 1, 1);
  fill(metadata.get(), meta_elements * copies, 1, 2);
  Buffer<uint16_t> q(static_cast<size_t>(heads * d)), out(static_cast<size_t>(heads * d));
  fill(q.get(), heads * d, 1, 3);
  std::vector<int32_t> table(static_cast<size_t>(pages));
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), std::mt19937(7));
  Buffer<int32_t> device_table(table.size());
  check(cudaMemcpy(device_table.get(), table.data(), table.size() * 4, cudaMemcpyHostToDevice), "table");
  Buffer<float> scores(static_cast<size_t>(kv_heads * pages)), partials(static_cast<size_t>(heads) * kDecodePartials * (d + 2));
  Buffer<unsigned> arrivals(static_cast<size_t>(heads));
  check(cudaMemset(arrivals.get(), 0, arrivals.size() * 4), "arrivals");
  Buffer<uint32_t> board(size_t{8} << 20);  // large enough for every plan
  check(cudaMemsetAsync(board.get(), 0xff, board.size() * 4, stream), "board");
  Buffer<DecodeRow> rows(2);  // dense, sparse
  const DecodeShape shape{5, heads, kv_heads, d, 4, kv_heads, Half::fp16};
  const std::string name = std::to_string(context / 1024) + "K " + std::to_string(heads) + "/" + std::to_string(kv_heads);
  int splits = decode_splits(shape, 1, sms), blocks = estimate_blocks(shape, 1, pages, sms);
  Buffer<int32_t> lists(static_cast<size_t>(kv_heads) * 512);

  const auto decode = [&](const DecodeRow* row, int copy, int k) {
    decode_attention({row, 1, shape, q.get(), heads * d, nullptr, kv.get() + copy * kv_elements, lists.get(), k, out.get(), false, splits,
                      partials.get(), arrivals.get(), nullptr, 0, nullptr},
                     here());
  };
  const auto score = [&](int copy) {
    estimate({rows.get() + 1, 1, shape, q.get(), heads * d, metadata.get() + copy * meta_elements, kv.get(), pages, scores.get(), pages, blocks}, here());
  };
  const auto select = [&](int k) {
    top_k({rows.get() + 1, 1, shape, scores.get(), pages, pages, lists.get(), k, nullptr}, here());
  };
  const auto each_copy = [&](auto&& f) {
    return time_units(copies, [&] {
      for (int c = 0; c < copies; ++c) f(c);
    });
  };
  const double token_bytes = 2.0 * 2 * d * kv_heads;
  KernelTime dense{0, 0};
  for (int budget : budgets) {
    const int k = budget / page;
    DecodeRow row{};
    row.table = device_table.get();
    row.n = context;
    row.reading = Reading::dense;
    DecodeRow sparse = row;
    sparse.reading = Reading::selector;
    sparse.list_pages = k;
    const DecodeRow both[] = {row, sparse};
    check(cudaMemcpy(rows.get(), both, sizeof(both), cudaMemcpyHostToDevice), "rows");
    if (sweep) {
      select(k);
      for (int s : {4, 8, 12, 16, 24, 32, 48, 64}) {
        splits = s;
        print("dense attention", name + ", " + std::to_string(s) + " splits", each_copy([&](int c) { decode(rows.get(), c, 1); }), token_bytes * context);
        print("sparse attention", name + ", " + std::to_string(s) + " splits", each_copy([&](int c) { decode(rows.get() + 1, c, k); }), token_bytes * budget);
      }
      for (int b : {2, 4, 8, 12, 16, 20, 32, 64}) {
        blocks = b;
        print("estimate", name + ", " + std::to_string(b) + " blocks", each_copy(score), token_bytes * pages);
      }
      continue;
    }
    if (budget == budgets[0]) {
      dense = each_copy([&](int c) { decode(rows.get(), c, 1); });
      print("dense attention", name + ", " + std::to_string(splits) + " splits", dense, token_bytes * context);
      print("estimate", name + ", " + std::to_string(blocks) + " blocks", each_copy(score), token_bytes * pages);
    }
    const std::string with = name + ", budget " + std::to_string(budget);
    print("top-k", with, each_copy([&](int) { select(k); }), 0);
    print("sparse attention", with, each_copy([&](int c) { decode(rows.get() + 1, c, k); }), token_bytes * budget);
    const auto chain = [&](const SparsePlan& plan) {
      return each_copy([&](int c) {
        sparse_attention({{rows.get() + 1, 1, shape, q.get(), heads * d, nullptr, kv.get() + c * kv_elements, lists.get(), k, out.get(), false, splits,
                           partials.get(), arrivals.get(), nullptr, 0, nullptr},
                          metadata.get() + c * meta_elements, pages, pages, plan, board.get(), true, false, scores.get(), pages, blocks, lists.get(), nullptr},
                         here());
      });
    };
    const auto line = [&](const char* what, const SparsePlan& plan) {
      const KernelTime t = chain(plan);
      print(what, with + (plan.blocks ? ", " + std::to_string(plan.blocks) + " blocks, "  + std::to_string(plan.slots) + " slots" : ""), t,
            token_bytes * (budget + pages));
      std::printf("%-28s %-44s %9.2f x over dense\n", "", with.c_str(), dense.median_us / t.median_us);
    };
    line("estimate + top-k + attention", {});
    const SparsePlan best = sparse_plan(shape, 1, pages, k, sms);
    if (!fuses || best.blocks == 0) continue;
    line("fused", best);
    if (budget != budgets[0]) continue;
    for (int other : {best.blocks / 2, best.blocks * 2}) {
      const SparsePlan plan{other, 3, other * kv_heads <= sms};
      if (other >= 1 && other <= 32) line("fused", plan);
    }
  }
}

void matrices(bool single) {
  struct Shape {
    const char* name;
    int n, k;
    Epilogue epilogue;
  };
  const Shape shapes[] = {{"qkv 7B", 12288, 4096, Epilogue::half}, {"o 7B", 4096, 4096, Epilogue::residual}, {"gate_up 7B", 22016, 4096, Epilogue::silu_mul},
                          {"down 7B", 4096, 11008, Epilogue::residual}, {"lm_head 7B", 32000, 4096, Epilogue::fp32}};
  const int rows_of[] = {1, 8, 2048};
  Blas blas;
  if (!single) std::printf("matrix products of many rows: %s\n", blas.name());
  for (const Shape& s : shapes) {
    const int copies = single ? 4 : 1;
    Buffer<uint16_t> weight(static_cast<size_t>(s.n) * static_cast<size_t>(s.k) * static_cast<size_t>(copies));
    Buffer<uint16_t> in(static_cast<size_t>(2048) * static_cast<size_t>(s.k));
    Buffer<float> x(static_cast<size_t>(2048) * static_cast<size_t>(std::max(s.n, s.k))), norm(static_cast<size_t>(s.k));
    fill(weight.get(), static_cast<int64_t>(weight.size()), 0.02f, 1);
    fill(in.get(), static_cast<int64_t>(in.size()), 1, 2);
    fill_random({x.get(), static_cast<int64_t>(x.size()), 1, 0, true, Half::fp16, 3}, here());
    fill_random({norm.get(), s.k, 0, 1, true, Half::fp16, 3}, here());
    const double bytes = 2.0 * s.n * s.k;
    for (int rows : rows_of) {
      const double flops = 2.0 * rows * s.n * s.k;
      const std::string shape = std::to_string(rows) + " x " + std::to_string(s.n) + " x " + std::to_string(s.k);
      if (single && rows <= kGemvRows) {
        const bool normed = s.epilogue == Epilogue::half || s.epilogue == Epilogue::silu_mul;
        Buffer<float> out(static_cast<size_t>(rows) * static_cast<size_t>(s.n));
        const KernelTime t = time_units(copies, [&] {
          for (int c = 0; c < copies; ++c) {
            gemv({normed ? nullptr : in.get(), normed ? x.get() : nullptr, norm.get(), 1e-5f, weight.get() + static_cast<int64_t>(c) * s.n * s.k, out.get(),
                  rows, s.n, s.k, s.epilogue, Half::fp16, sms},
                 here());
          }
        });
        print(("gemv " + std::string(s.name)).c_str(), shape, t, bytes);
      }
      if (!single && rows > kGemvRows && s.epilogue != Epilogue::fp32) {
        const Epilogue e = s.epilogue == Epilogue::silu_mul ? Epilogue::half : s.epilogue;
        Buffer<uint16_t> half_out(static_cast<size_t>(rows) * static_cast<size_t>(s.n));
        void* out = e == Epilogue::half ? static_cast<void*>(half_out.get()) : x.get();
        const GemmParams p{in.get(), weight.get(), out, rows, s.n, s.k, e, Half::fp16};
        print(("gemm " + std::string(s.name) + " (own)").c_str(), shape, time_units(1, [&] { gemm(p, here()); }), 0, flops);
        if (blas.available()) print(("gemm " + std::string(s.name) + " (cuBLAS)").c_str(), shape, time_units(1, [&] { blas.product(p, here()); }), 0, flops);
      }
    }
  }
}

// Products with 4-bit weights: decode rows, and the turn into fp16 that comes before a product of many rows.
void int4_matrices() {
  struct Shape {
    const char* name;
    int n, k;
    Epilogue epilogue;
  };
  const Shape shapes[] = {{"o 7B", 4096, 4096, Epilogue::residual},    {"up 7B", 11008, 4096, Epilogue::half},       {"down 7B", 4096, 11008, Epilogue::residual},
                          {"qkv 7B", 12288, 4096, Epilogue::half},     {"gate_up 7B", 22016, 4096, Epilogue::silu_mul}, {"qkv 8B", 6144, 4096, Epilogue::half},
                          {"gate_up 8B", 28672, 4096, Epilogue::silu_mul}, {"down 8B", 4096, 14336, Epilogue::residual}};
  for (const Shape& s : shapes) {
    const int64_t size = int4_bytes(s.n, s.k, 128);
    const int copies = static_cast<int>(200e6 / static_cast<double>(size)) + 2;  // four times the L2, once around
    Buffer<unsigned char> weight(static_cast<size_t>(size * copies));
    Buffer<uint16_t> in(static_cast<size_t>(8) * static_cast<size_t>(s.k)), unpacked(static_cast<size_t>(s.n) * static_cast<size_t>(s.k));
    Buffer<float> x(static_cast<size_t>(8) * static_cast<size_t>(std::max(s.n, s.k))), norm(static_cast<size_t>(s.k)), out(static_cast<size_t>(8) * static_cast<size_t>(s.n));
    for (int c = 0; c < copies; ++c) int4_random({weight.get() + c * size, s.n, s.k, 128, 0.02f, static_cast<uint32_t>(c)}, here());
    fill(in.get(), static_cast<int64_t>(in.size()), 1, 2);
    fill_random({x.get(), static_cast<int64_t>(x.size()), 1, 0, true, Half::fp16, 3}, here());
    fill_random({norm.get(), s.k, 0, 1, true, Half::fp16, 3}, here());
    const bool silu = s.epilogue == Epilogue::silu_mul, normed = silu || s.epilogue == Epilogue::half;
    for (int rows : {1, 2, 8}) {
      const KernelTime t = time_units(copies, [&] {
        for (int c = 0; c < copies; ++c) {
          int4_gemv({normed ? nullptr : in.get(), normed ? x.get() : nullptr, norm.get(), 1e-5f, weight.get() + c * size, 128, out.get(), rows, s.n, s.k,
                     s.epilogue, sms},
                    here());
        }
      });
      print(("int4 gemv " + std::string(s.name)).c_str(), std::to_string(rows) + " x " + std::to_string(s.n) + " x " + std::to_string(s.k), t, static_cast<double>(size));
    }
    const KernelTime t = time_units(copies, [&] {
      for (int c = 0; c < copies; ++c) int4_unpack({weight.get() + c * size, unpacked.get(), s.n, s.k, 128, silu}, here());
    });
    print(("int4 unpack " + std::string(s.name)).c_str(), std::to_string(s.n) + " x " + std::to_string(s.k), t, static_cast<double>(size) + 2.0 * s.n * s.k);
  }
}

void prefill_shapes() {
  for (const auto& [heads, kv_heads] : {std::pair{32, 32}, std::pair{32, 8}}) {
    const int d = 128, page = 16, context = 32768, rows = 2048, pages = context / page;
    Buffer<uint16_t> kv(static_cast<size_t>(pages) * static_cast<size_t>(kv_heads * 2 * page * d)), q(static_cast<size_t>(rows * heads * d)),
        out(static_cast<size_t>(rows * heads * d));
    fill(kv.get(), static_cast<int64_t>(kv.size()), 1, 1);
    fill(q.get(), static_cast<int64_t>(q.size()), 1, 2);
    std::vector<int32_t> table(static_cast<size_t>(pages));
    std::iota(table.begin(), table.end(), 0);
    Buffer<int32_t> device_table(table.size());
    check(cudaMemcpy(device_table.get(), table.data(), table.size() * 4, cudaMemcpyHostToDevice), "table");
    for (int base : {0, context - rows}) {
      const double keys = rows * (base + (rows + 1) / 2.0);
      print("prefill attention", std::to_string(heads) + "/" + std::to_string(kv_heads) + ", 2048 rows after " + std::to_string(base),
            time_units(1, [&] { prefill_attention({q.get(), heads * d, kv.get(), device_table.get(), out.get(), rows, base, heads, kv_heads, d, page, pages, Half::fp16}, here()); }),
            0, 4.0 * d * heads * keys);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::vector<std::string> what(argv + 1, argv + argc);
    const auto wanted = [&](const char* name) {
      return std::find(what.begin(), what.end(), name) != what.end() || (what.empty() && std::strcmp(name, "sweep") != 0);
    };
    check(cudaSetDevice(0), "cudaSetDevice");
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
    check(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0), "cudaDeviceGetAttribute");
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    overlap = properties.major >= 9 && !(std::getenv("QUEST_CUDA_OVERLAP") && std::getenv("QUEST_CUDA_OVERLAP")[0] == '0');
    fuses = properties.major >= 9 && sparse_fuses();
    std::printf("%s, %d multiprocessors, programmatic launch %s\n", properties.name, sms, overlap ? "on" : "off");
    bandwidth();
    if (wanted("attention")) {
      for (int context : {8192, 32768, 131072}) attention(32, 32, context, {2048, 4096});
      for (int context : {32768, 131072}) attention(32, 8, context, {2048, 4096});
    }
    if (wanted("gemv")) matrices(true);
    if (wanted("int4")) int4_matrices();
    if (wanted("gemm")) matrices(false);
    if (wanted("prefill")) prefill_shapes();
    if (wanted("sweep")) {
      attention(32, 32, 32768, {2048}, true);
      attention(32, 8, 32768, {2048}, true);
    }
  } catch (const Error& e) {
    std::fprintf(stderr, "%s: %s %s\n", e.code.c_str(), e.what(), e.hint.c_str());
    return 1;
  }
  return 0;
}
