// What the GPU kernel tests share: device arrays full of NaN until written, half-precision vectors, random numbers, the
// comparison with a naive kernel, a cache whose pages lie in scrambled order.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "cuda/kernels.h"

namespace quest::cuda::test {

// False, with one line saying why, where there is no GPU.
bool gpu_present();
#define QUEST_NEEDS_GPU() \
  if (!gpu_present()) GTEST_SKIP() << "no GPU"

// Whether a shape is left out: with QUEST_SMALL_SHAPES in the environment, under compute-sanitizer, which slows kernels a
// hundredfold, all above `most` are. Every kernel keeps some.
inline bool left_out(int64_t size, int64_t most) {
  static const bool small = std::getenv("QUEST_SMALL_SHAPES") != nullptr;
  return small && size > most;
}

template <class T>
struct Array {  // on the device
  Buffer<T> memory;
  size_t n;
  explicit Array(size_t count) : memory(std::max<size_t>(count, 1)), n(count) { check(cudaMemset(memory.get(), 0xff, memory.size() * sizeof(T)), "memset"); }
  explicit Array(const std::vector<T>& v) : Array(v.size()) { set(v); }
  void set(const std::vector<T>& v) {
    if (n) check(cudaMemcpy(memory.get(), v.data(), n * sizeof(T), cudaMemcpyHostToDevice), "upload");
  }
  std::vector<T> host() const {
    check(cudaDeviceSynchronize(), "synchronize");
    std::vector<T> v(n);
    if (n) check(cudaMemcpy(v.data(), memory.get(), n * sizeof(T), cudaMemcpyDeviceToHost), "download");
    return v;
  }
  T* get() const { return memory.get(); }
};

inline uint16_t to_half(float x, Half type) {
  uint16_t bits;
  if (type == Half::fp16) {
    const __half h = __float2half_rn(x);
    std::memcpy(&bits, &h, 2);
  } else {
    const __nv_bfloat16 h = __float2bfloat16_rn(x);
    std::memcpy(&bits, &h, 2);
  }
  return bits;
}
inline float from_half(uint16_t bits, Half type) {
  if (type == Half::bf16) {
    __nv_bfloat16 h;
    std::memcpy(static_cast<void*>(&h), &bits, 2);
    return __bfloat162float(h);
  }
  __half h;
  std::memcpy(static_cast<void*>(&h), &bits, 2);
  return __half2float(h);
}

// Relative rounding of one stored value.
inline double half_step(Half type) { return type == Half::fp16 ? 1.0 / 1024 : 1.0 / 128; }

struct Random {
  std::mt19937 engine;
  explicit Random(unsigned seed) : engine(seed) {}
  float normal() { return std::normal_distribution<float>()(engine); }
  int below(int n) { return static_cast<int>(engine() % static_cast<unsigned>(n)); }
  std::vector<float> floats(size_t n, float scale = 1) {
    std::vector<float> v(n);
    for (float& x : v) x = normal() * scale;
    return v;
  }
  std::vector<uint16_t> halves(size_t n, Half type, float scale = 1) {
    std::vector<uint16_t> v(n);
    for (auto& x : v) x = to_half(normal() * scale, type);
    return v;
  }
};

inline std::vector<double> widen(const std::vector<uint16_t>& v, Half type) {
  std::vector<double> out(v.size());
  for (size_t i = 0; i < v.size(); ++i) out[i] = from_half(v[i], type);
  return out;
}

// |out - want| / |want|; NaN when anything is NaN.
inline double relative_error(const std::vector<double>& out, const std::vector<double>& want) {
  EXPECT_EQ(out.size(), want.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (out[i] - want[i]) * (out[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(difference) / std::sqrt(norm > 0 ? norm : 1);
}

// |got - want| / |want| over what the reference wrote; infinite where a kernel wrote more: both started from the poison of Array.
template <class T, class Number>
double difference_of(const std::vector<T>& got, const std::vector<T>& want, Number&& number) {
  EXPECT_EQ(got.size(), want.size());
  T poison;
  std::memset(&poison, 0xff, sizeof(T));
  const auto poisoned = [&](const T& x) { return std::memcmp(&x, &poison, sizeof(T)) == 0; };
  std::vector<double> mine, theirs;
  for (size_t i = 0; i < want.size(); ++i) {
    if (poisoned(want[i]) && !poisoned(got[i])) return INFINITY;
    if (poisoned(want[i])) continue;
    mine.push_back(number(got[i]));
    theirs.push_back(number(want[i]));
  }
  return relative_error(mine, theirs);
}
inline double difference(const std::vector<uint16_t>& got, const std::vector<uint16_t>& want, Half type) {
  return difference_of(got, want, [type](uint16_t x) { return from_half(x, type); });
}
inline double difference(const std::vector<float>& got, const std::vector<float>& want) {
  return difference_of(got, want, [](float x) { return x; });
}

// One layer's cache of a branch of n tokens, on the device and as numbers. Unwritten slots are NaN; pages are scrambled.
struct Cache {
  int n, n_kv_heads, d, page_size, pages, capacity;
  Half type;
  std::vector<int32_t> table;
  std::vector<double> keys;  // [kv head, token, d]
  std::vector<uint16_t> metadata_host;
  Array<uint16_t> kv, metadata;
  Array<int32_t> device_table;

  Cache(Random& random, int tokens, int kv_heads, int head_dim, int size, Half half)
      : n(tokens), n_kv_heads(kv_heads), d(head_dim), page_size(size), pages((tokens + size - 1) / size), capacity(pages + 3), type(half),
        kv(static_cast<size_t>(capacity) * static_cast<size_t>(kv_heads * 2 * size * head_dim)),
        metadata(static_cast<size_t>(kv_heads) * static_cast<size_t>(capacity * 2 * head_dim)), device_table(static_cast<size_t>(pages)) {
    std::vector<int32_t> ids(static_cast<size_t>(capacity));
    for (int i = 0; i < capacity; ++i) ids[static_cast<size_t>(i)] = i;
    std::shuffle(ids.begin(), ids.end(), random.engine);
    table.assign(ids.begin(), ids.begin() + pages);
    device_table.set(table);
    std::vector<uint16_t> storage(kv.n, 0xffff);
    metadata_host.assign(metadata.n, 0xffff);
    keys.resize(static_cast<size_t>(kv_heads) * static_cast<size_t>(n * d));
    for (int h = 0; h < kv_heads; ++h) {
      for (int t = 0; t < n; ++t) {
        const int page = table[static_cast<size_t>(t / size)];
        for (int c = 0; c < d; ++c) {
          const uint16_t k = to_half(random.normal(), type), v = to_half(random.normal(), type);
          storage[at(page, h, 0, t % size, c)] = k;
          storage[at(page, h, 1, t % size, c)] = v;
          const size_t i = index(h, t, c);
          keys[i] = from_half(k, type);
          uint16_t& low = metadata_host[bound(h, page, 0, c)];
          uint16_t& high = metadata_host[bound(h, page, 1, c)];
          if (t % size == 0 || keys[i] < from_half(low, type)) low = k;
          if (t % size == 0 || keys[i] > from_half(high, type)) high = k;
        }
      }
    }
    kv.set(storage);
    metadata.set(metadata_host);
  }
  size_t index(int h, int t, int c) const { return (static_cast<size_t>(h) * static_cast<size_t>(n) + static_cast<size_t>(t)) * static_cast<size_t>(d) + static_cast<size_t>(c); }
  size_t at(int page, int h, int which, int offset, int c) const {
    return (((static_cast<size_t>(page) * static_cast<size_t>(n_kv_heads) + static_cast<size_t>(h)) * 2 + static_cast<size_t>(which)) * static_cast<size_t>(page_size) + static_cast<size_t>(offset)) * static_cast<size_t>(d) + static_cast<size_t>(c);
  }
  size_t bound(int h, int page, int which, int c) const {
    return ((static_cast<size_t>(h) * static_cast<size_t>(capacity) + static_cast<size_t>(page)) * 2 + static_cast<size_t>(which)) * static_cast<size_t>(d) + static_cast<size_t>(c);
  }
};

inline int shift_of(int page_size) {
  int s = 0;
  while (1 << s < page_size) ++s;
  return s;
}

}  // namespace quest::cuda::test
