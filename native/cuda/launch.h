// Launching kernels and holding device memory, with every CUDA error turned into an Error that names the call.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <string>
#include <utility>

#include "core/error.h"

#ifdef QUEST_EMULATE
#include "tests/cuda_emulation/emulation.h"
#endif

namespace quest::cuda {

inline void check(cudaError_t e, const char* what) {
  if (e == cudaSuccess) return;
  cudaGetLastError();
  throw Error("E_CUDA", std::string(what) + ": " + cudaGetErrorString(e));
}

// 16-bit formats of weights, activations and caches.
enum class Half : uint8_t { fp16, bf16 };

// Where and how to launch. With `overlap` (Hopper: programmatic dependent launch) a kernel may start before its predecessor
// has ended; before it waits for that, a kernel here touches only what is older: weights, the plan, full pages' bounds.
struct Launch {
  cudaStream_t stream = nullptr;
  bool overlap = false;
};

// Shared memory that one block of the current GPU may have, in bytes: 227 KB on sm_90, 163 on sm_80, 99 on sm_86, sm_89 and sm_120.
inline size_t shared_limit() {
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "cudaDeviceGetAttribute");
  return static_cast<size_t>(bytes);
}

// Blocks of a kernel that the current GPU holds at once.
template <class Params>
int resident_blocks(const char* name, void (*kernel)(Params), unsigned threads, size_t shared_bytes) {
  int device = 0, sms = 0, each = 1;  // emulated: one
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
#ifdef QUEST_EMULATE
  (void)name, (void)kernel, (void)threads, (void)shared_bytes;
#else
  const auto* function = reinterpret_cast<const void*>(kernel);
  check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)), name);
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, function, static_cast<int>(threads), shared_bytes), name);
#endif
  return each * sms;
}

// One kernel over one plain Params struct.
template <class Params>
void launch(const Launch& how, const char* name, void (*kernel)(Params), dim3 grid, unsigned threads, size_t shared_bytes,
            const Params& params) {
#ifdef QUEST_EMULATE
  (void)name;
  emulation::launch(how.stream, grid, threads, shared_bytes, [=] { kernel(params); });
#else
  if (shared_bytes > 32 * 1024) {  // with what the kernel declares itself, 48 KB need to be asked for
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          name);
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = how.stream;
  cudaLaunchAttribute attribute{};
  config.attrs = &attribute;
  if (how.overlap) {
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.numAttrs = 1;
  }
  void* arguments[] = {const_cast<Params*>(&params)};
  check(cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), arguments), name);
#endif
}

// A kernel whose blocks along x wait for each other: it counts on the GPU starting blocks in the order of their indices, and on
// not sharing the GPU, block by block, with a chain of 4-bit products of another stream (neighbours.h).
template <class Params>
void launch_side_by_side(const Launch& how, const char* name, void (*kernel)(Params), dim3 grid, unsigned threads, size_t shared_bytes, const Params& params) {
#ifdef QUEST_EMULATE
  (void)name;
  emulation::launch(how.stream, grid, threads, shared_bytes, [=] { kernel(params); }, grid.x);
#else
  launch(how, name, kernel, grid, threads, shared_bytes, params);
#endif
}

// Device memory that frees itself. T is the element type, sizes count elements.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t n) { resize(n); }
  Buffer(Buffer&& o) noexcept : data_(std::exchange(o.data_, nullptr)), size_(std::exchange(o.size_, 0)) {}
  Buffer& operator=(Buffer&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    return *this;
  }
  ~Buffer() { release(); }

  // Forgets the contents. Waits for the device when something is freed.
  void resize(size_t n) {
    if (n == size_) return;
    release();
    if (n == 0) return;
    const cudaError_t e = cudaMalloc(reinterpret_cast<void**>(&data_), n * sizeof(T));
    if (e == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      size_t free = 0, total = 0;
      cudaMemGetInfo(&free, &total);
      throw Error("E_GPU_MEMORY",
                  "the GPU has " + std::to_string(free >> 20) + " MiB free of " + std::to_string(total >> 20) + " MiB, and " +
                      std::to_string((n * sizeof(T)) >> 20) + " MiB more are needed",
                  "use a smaller model or context, or free the GPU's memory");
    }
    check(e, "cudaMalloc");
    size_ = n;
  }
  void reserve(size_t n) {
    if (n > size_) resize(n);
  }
  void release() {
    if (data_) cudaFree(data_);
    data_ = nullptr;
    size_ = 0;
  }
  T* get() const { return data_; }
  size_t size() const { return size_; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

// Page-locked host memory.
template <class T>
class Pinned {
 public:
  Pinned() = default;
  explicit Pinned(size_t n) { resize(n); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  ~Pinned() {
    if (data_) cudaFreeHost(data_);
  }
  void resize(size_t n) {
    if (data_) cudaFreeHost(data_);
    data_ = nullptr;
    size_ = 0;
    if (n == 0) return;
    check(cudaMallocHost(reinterpret_cast<void**>(&data_), n * sizeof(T)), "cudaMallocHost");
    size_ = n;
  }
  void reserve(size_t n) {
    if (n > size_) resize(n);
  }
  T* get() const { return data_; }
  T& operator[](size_t i) const { return data_[i]; }
  size_t size() const { return size_; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace quest::cuda
