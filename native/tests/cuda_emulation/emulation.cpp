#include "tests/cuda_emulation/emulation.h"

#include <sys/mman.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

// Saves the callee-saved registers and the stack pointer of one coroutine and continues another.
extern "C" void quest_switch(void** save, void* load);
asm(R"(
.text
.globl quest_switch
.type quest_switch,@function
quest_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace quest::cuda::emulation {

uint3 thread_index, block_index;
dim3 block_dim, grid_dim;

namespace {

constexpr size_t kStackBytes = 128 * 1024;

struct Fiber {
  enum State : uint8_t { ready, at_barrier, at_grid_barrier, paused, finished } state = finished;
  void* sp = nullptr;
  unsigned char* stack = nullptr;
};

struct Warp {
  Slot slots[2][32];
  int arrived = 0;
  unsigned phase = 0;
};

std::vector<Fiber> fibers;
std::vector<Warp> warps;
std::vector<std::vector<unsigned char>> shared;  // of each block that runs
unsigned block_threads = 1;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "emulation: %s\n", what);
  std::abort();
}
const std::function<void()>* body = nullptr;
void* scheduler_sp = nullptr;
unsigned current = 0;

void yield() { quest_switch(&fibers[current].sp, scheduler_sp); }

void entry() {
  (*body)();
  fibers[current].state = Fiber::finished;
  yield();
  std::abort();
}

void prepare(Fiber& f) {
  if (!f.stack) {
    void* p = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) std::abort();
    f.stack = static_cast<unsigned char*>(p);
  }
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(f.stack, kStackBytes);  // the last coroutine here never returned from its frames
#endif
  auto* top = reinterpret_cast<void**>(f.stack + kStackBytes - 64);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  f.sp = top;
  f.state = Fiber::ready;
}

// Lets a barrier's threads go on when all that have not finished are there. False when some are not.
bool release(unsigned begin, unsigned end, Fiber::State from) {
  bool waiting = false;
  for (unsigned t = begin; t < end; ++t) {
    if (fibers[t].state == Fiber::finished) continue;
    if (fibers[t].state != from) return false;
    waiting = true;
  }
  for (unsigned t = begin; t < end; ++t) {
    if (fibers[t].state == from) fibers[t].state = Fiber::ready;
  }
  return waiting;
}

// Blocks side by side (one, for most launches), the first of which is block `first`.
void run_blocks(unsigned blocks, unsigned threads, uint3 first) {
  static const bool reverse = std::getenv("QUEST_EMULATE_ORDER") && std::getenv("QUEST_EMULATE_ORDER")[0] == '1';
  const unsigned all = blocks * threads, n_warps = all / 32;
  block_threads = threads;
  for (unsigned t = 0; t < all; ++t) prepare(fibers[t]);
  for (unsigned w = 0; w < n_warps; ++w) warps[w].arrived = 0;
  for (unsigned pauses = 0;;) {
    for (unsigned i = 0; i < n_warps; ++i) {
      const unsigned w = reverse ? n_warps - 1 - i : i;
      for (int rounds = 0;; ++rounds) {
        bool any = false;
        for (unsigned j = 0; j < 32; ++j) {
          const unsigned t = w * 32 + (reverse ? 31 - j : j);
          if (fibers[t].state != Fiber::ready) continue;
          any = true;
          current = t;
          thread_index = {t % threads, 0, 0};
          block_index = {first.x + t / threads, first.y, first.z};
          quest_switch(&scheduler_sp, fibers[t].sp);
        }
        if (!any) break;
        if (rounds > 50'000'000) fail("a warp collective was not reached by all lanes");
      }
    }
    bool released = false, paused = false;
    for (unsigned b = 0; b < blocks; ++b) released = release(b * threads, (b + 1) * threads, Fiber::at_barrier) || released;
    for (unsigned t = 0; t < all; ++t) {
      if (fibers[t].state == Fiber::paused) fibers[t].state = Fiber::ready, paused = true;
    }
    if (paused && !released && ++pauses > 10'000) fail("blocks wait for each other");
    if (released) pauses = 0;
    if (released || paused || release(0, all, Fiber::at_grid_barrier)) continue;
    for (unsigned t = 0; t < all; ++t) {
      if (fibers[t].state != Fiber::finished) fail("a barrier was not reached by all threads");
    }
    return;
  }
}

struct Operation {
  std::function<void()> run;
};
using Recording = std::vector<Operation>;
std::unique_ptr<Recording> recording;

// Work waits here until somebody synchronises, as late as a GPU may run it: host memory that is written too early or read too
// late shows. One stream is all there is.
std::deque<std::function<void()>> waiting;
uint64_t sent = 0, performed = 0;

void perform_until(uint64_t mark) {
  for (; performed < mark; ++performed) {
    const auto f = std::move(waiting.front());
    waiting.pop_front();
    f();
  }
}
void perform_all() { perform_until(sent); }

void perform(std::function<void()> f) {
  if (recording) {
    recording->push_back({std::move(f)});
  } else {
    waiting.push_back(std::move(f));
    ++sent;
  }
}

}  // namespace

unsigned char* dynamic_shared() { return shared[current / block_threads].data(); }
int lane() { return static_cast<int>(current % 32); }

void block_barrier() {
  fibers[current].state = Fiber::at_barrier;
  yield();
}

void pause() {
  fibers[current].state = Fiber::paused;
  yield();
}

void wait_for_neighbours() {
  fibers[current].state = Fiber::at_grid_barrier;
  yield();
}

const Slot* exchange(const Slot& mine) {
  Warp& w = warps[current / 32];
  const unsigned phase = w.phase;
  w.slots[phase & 1][current % 32] = mine;
  if (++w.arrived == 32) {
    w.arrived = 0;
    ++w.phase;
  } else {
    while (w.phase == phase) yield();
  }
  return w.slots[phase & 1];
}

void launch(cudaStream_t, dim3 grid, unsigned threads, size_t shared_bytes, std::function<void()> kernel, unsigned side_by_side) {
  const unsigned blocks = std::max(1u, side_by_side);
  if (threads == 0 || threads % 32 != 0 || threads > 1024 || grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 ||
      grid.z > 65535 || shared_bytes > 227 * 1024 || blocks > 32 || grid.x % blocks != 0) {
    std::fprintf(stderr, "emulation: bad launch: grid %u %u %u %u side by side, %u threads, %zu bytes\n", grid.x, grid.y, grid.z, blocks, threads,
                 shared_bytes);
    std::abort();
  }
  perform([=] {
    if (fibers.size() < blocks * threads) fibers.resize(blocks * threads);
    if (warps.size() < blocks * threads / 32) warps.resize(blocks * threads / 32);
    if (shared.size() < blocks) shared.resize(blocks);
    // Room for alignment is not needed: vector storage of this size is 16-byte aligned, and that is the widest access.
    body = &kernel;
    block_dim = dim3(threads);
    grid_dim = grid;
    for (unsigned z = 0; z < grid.z; ++z) {
      for (unsigned y = 0; y < grid.y; ++y) {
        for (unsigned x = 0; x < grid.x; x += blocks) {
          for (unsigned b = 0; b < blocks; ++b) shared[b].assign(shared_bytes, 0xff);
          run_blocks(blocks, threads, {x, y, z});
        }
      }
    }
  });
}

}  // namespace quest::cuda::emulation

// The runtime calls that the backend makes, on host memory. Fresh memory is full of NaN.
using quest::cuda::emulation::perform;
using quest::cuda::emulation::perform_all;
using quest::cuda::emulation::perform_until;
using quest::cuda::emulation::sent;
using quest::cuda::emulation::recording;
using quest::cuda::emulation::Recording;

extern "C" {

cudaError_t cudaMallocHost(void** p, size_t n) {
  *p = std::aligned_alloc(256, (n + 255) / 256 * 256);
  if (!*p) return cudaErrorMemoryAllocation;
  // NaN in every format, and not the bits of a wiped board: memory that nobody initialised must not look like one.
  std::fill_n(static_cast<uint32_t*>(*p), (n + 255) / 256 * 64, 0xfffdfffdu);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  perform_all();
  std::free(p);
  return cudaSuccess;
}
// As on a GPU, a graph that is being captured allows neither.
cudaError_t cudaMalloc(void** p, size_t n) { return recording ? cudaErrorStreamCaptureUnsupported : cudaMallocHost(p, n); }
cudaError_t cudaFree(void* p) { return recording ? cudaErrorStreamCaptureUnsupported : cudaFreeHost(p); }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const char* mib = std::getenv("QUEST_EMULATE_MIB");
  *free = *total = static_cast<size_t>(mib ? std::atoll(mib) : 1024) << 20;
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind, cudaStream_t) {
  perform([=] { std::memcpy(to, from, n); });
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t n, cudaMemcpyKind) {
  perform_all();
  std::memcpy(to, from, n);
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                              cudaMemcpyKind, cudaStream_t) {
  perform([=] {
    for (size_t i = 0; i < height; ++i) std::memcpy(static_cast<char*>(to) + i * to_pitch, static_cast<const char*>(from) + i * from_pitch, width);
  });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int v, size_t n, cudaStream_t) {
  perform([=] { std::memset(p, v, n); });
  return cudaSuccess;
}
cudaError_t cudaMemset(void* p, int v, size_t n) {
  perform_all();
  std::memset(p, v, n);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) {
  *s = nullptr;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  perform_all();
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return cudaStreamSynchronize(nullptr); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) {
  *e = reinterpret_cast<cudaEvent_t>(new uint64_t(0));
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
  delete reinterpret_cast<uint64_t*>(e);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t) {
  *reinterpret_cast<uint64_t*>(e) = sent;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
  perform_until(*reinterpret_cast<uint64_t*>(e));
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "emulated error"; }
cudaError_t cudaGetDeviceCount(int* n) {
  *n = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetDevice(int* d) {
  *d = 0;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* v) {
  *v = 13000;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* v, cudaDeviceAttr a, int) {
  *v = a == cudaDevAttrMultiProcessorCount ? 8 : a == cudaDevAttrComputeCapabilityMajor ? 9 : a == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 227 * 1024 : 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  std::memset(p, 0, sizeof(*p));
  std::strcpy(p->name, "emulated GPU");
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  recording = std::make_unique<Recording>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* g) {
  *g = reinterpret_cast<cudaGraph_t>(recording.release());
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* e, cudaGraph_t g, unsigned long long) {
  *e = reinterpret_cast<cudaGraphExec_t>(new Recording(*reinterpret_cast<Recording*>(g)));
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) {
  delete reinterpret_cast<Recording*>(g);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) {
  delete reinterpret_cast<Recording*>(g);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t) {
  for (const auto& op : *reinterpret_cast<Recording*>(g)) perform(op.run);  // copied: the graph may be gone by then
  return cudaSuccess;
}

}  // extern "C"
