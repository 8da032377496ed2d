// A fixed set of threads that run the iterations of parallel_for; the caller takes part.
//
// One 64-bit word, `tickets_`, carries the current call's number and how many of its iterations are unclaimed. A thread
// claims an iteration by decrementing it with compare-and-swap, so a worker that wakes late finds either work of the
// current call or none, and the caller never waits for a worker that has nothing to do.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace quest::cpu {

class ThreadPool {
 public:
  // threads >= 1, the caller included; 0 means all cores this process may use.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(i, worker) for i in [0, n), each once, in any order; worker in [0, threads()). Returns when all are done.
  // Workers spin for a while before sleeping, so that the hundreds of short calls of a decode step stay cheap.
  // The first exception thrown by a body is rethrown here, and iterations not yet begun are skipped.
  // One caller at a time; a body must not call parallel_for of the same pool.
  void parallel_for(int64_t n, const std::function<void(int64_t i, int worker)>& body);

 private:
  void stop();
  void work(int worker);
  bool claim_and_run(int worker);
  bool wait_for_tickets();
  void wait_until_done();

  std::vector<std::thread> workers_;
  bool crowded_ = false;  // more threads than cores: waiting threads give their core away instead of spinning

  // The current call. Written by the caller while no ticket is out, read by threads that hold one.
  const std::function<void(int64_t, int)>* body_ = nullptr;
  int64_t first_ = 0;
  uint32_t count_ = 0;

  alignas(64) std::atomic<uint64_t> tickets_{0};  // call number << 32 | unclaimed iterations
  alignas(64) std::atomic<uint32_t> done_{0};     // iterations finished
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;  // guarded by mutex_

  std::mutex mutex_;
  std::condition_variable work_ready_;
  std::condition_variable all_done_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<bool> stop_{false};
};

// Cores this process may use: its affinity mask, cut to the container's CPU quota.
int usable_cores();

}  // namespace quest::cpu
