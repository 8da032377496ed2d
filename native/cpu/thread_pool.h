// A fixed set of threads that run the iterations of parallel_for; the caller takes part.
#pragma once

#include <condition_variable>
#include <atomic>
#include <cstdint>
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
  // The first exception thrown by a body is rethrown here. One caller at a time.
  void parallel_for(int64_t n, const std::function<void(int64_t i, int worker)>& body);

 private:
  struct Task;
  std::vector<std::thread> workers_;
  // implementation's own state below
};

}  // namespace quest::cpu
