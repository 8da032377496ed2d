// Spinning, then sleeping, worker threads. See thread_pool.h for the protocol.
#include "cpu/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <string>
#include <system_error>

#include "core/error.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace quest::cpu {
namespace {

// Longer than the serial gaps inside a decode step, shorter than anyone notices on a busy machine.
constexpr std::chrono::microseconds kSpin{150};
constexpr uint32_t kMaxTickets = 1u << 30;

void pause_core() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Calls ready() until it is true or kSpin is over; returns its last answer.
template <typename Ready>
bool spin_until(bool crowded, Ready ready) {
  const auto start = std::chrono::steady_clock::now();
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      if (crowded) {
        std::this_thread::yield();
      } else {
        pause_core();
      }
    }
  } while (std::chrono::steady_clock::now() - start < kSpin);
  return ready();
}

uint32_t unclaimed(uint64_t tickets) { return static_cast<uint32_t>(tickets); }

#if defined(__linux__)
// Cores that a cgroup's quota allows, or a large number when there is none.
double quota_cores() {
  long long quota = -1;
  long long period = 0;
  if (std::FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    if (std::fscanf(file, "%lld %lld", &quota, &period) != 2) quota = -1;  // "max 100000"
    std::fclose(file);
  } else if (std::FILE* old_quota = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r")) {
    if (std::fscanf(old_quota, "%lld", &quota) != 1) quota = -1;
    std::fclose(old_quota);
    if (std::FILE* old_period = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r")) {
      if (std::fscanf(old_period, "%lld", &period) != 1) period = 0;
      std::fclose(old_period);
    }
  }
  return quota > 0 && period > 0 ? static_cast<double>(quota) / static_cast<double>(period) : 1e9;
}
#endif

}  // namespace

int usable_cores() {
  int cores = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) cores = CPU_COUNT(&mask);
  cores = static_cast<int>(std::min(static_cast<double>(cores), std::ceil(quota_cores())));
#endif
  return std::max(cores, 1);
}

ThreadPool::ThreadPool(int threads) {
  const int cores = usable_cores();
  const int wanted = threads > 0 ? threads : cores;
  crowded_ = wanted > cores;
  workers_.reserve(static_cast<size_t>(wanted - 1));
  try {
    for (int worker = 1; worker < wanted; ++worker) {
      workers_.emplace_back([this, worker] { work(worker); });
    }
  } catch (const std::system_error& e) {
    stop();
    throw Error("E_THREADS", "the system gave " + std::to_string(workers_.size() + 1) + " of " + std::to_string(wanted) +
                                 " threads: " + e.what(),
                "use fewer threads");
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  work_ready_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::parallel_for(int64_t n, const std::function<void(int64_t, int)>& body) {
  if (workers_.empty() || n <= 1) {
    for (int64_t i = 0; i < n; ++i) body(i, 0);
    return;
  }
  for (int64_t first = 0; first < n; first += kMaxTickets) {
    body_ = &body;
    first_ = first;
    count_ = static_cast<uint32_t>(std::min<int64_t>(n - first, kMaxTickets));
    done_.store(0, std::memory_order_relaxed);
    const uint64_t call = (tickets_.load(std::memory_order_relaxed) >> 32) + 1;
    tickets_.store(call << 32 | count_);  // seq_cst, against a worker that is just going to sleep
    if (sleepers_.load() > 0) {
      { const std::lock_guard<std::mutex> lock(mutex_); }
      work_ready_.notify_all();
    }
    while (claim_and_run(0)) {
    }
    wait_until_done();
    if (failed_.load(std::memory_order_relaxed)) {
      failed_.store(false, std::memory_order_relaxed);
      std::exception_ptr error;
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        std::swap(error, error_);
      }
      std::rethrow_exception(error);
    }
  }
}

bool ThreadPool::claim_and_run(int worker) {
  uint64_t tickets = tickets_.load(std::memory_order_acquire);
  do {
    if (unclaimed(tickets) == 0) return false;
  } while (!tickets_.compare_exchange_weak(tickets, tickets - 1, std::memory_order_acq_rel, std::memory_order_acquire));

  const uint32_t count = count_;
  if (!failed_.load(std::memory_order_relaxed)) {
    try {
      (*body_)(first_ + (count - unclaimed(tickets)), worker);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
      failed_.store(true, std::memory_order_relaxed);
    }
  }
  // After this increment the caller may start its next call: touch nothing of this one below.
  if (done_.fetch_add(1) + 1 == count && caller_sleeps_.load()) {
    { const std::lock_guard<std::mutex> lock(mutex_); }
    all_done_.notify_one();
  }
  return true;
}

void ThreadPool::wait_until_done() {
  const auto finished = [this] { return done_.load() == count_; };
  if (spin_until(crowded_, finished)) return;
  std::unique_lock<std::mutex> lock(mutex_);
  caller_sleeps_ = true;
  all_done_.wait(lock, finished);
  caller_sleeps_ = false;
}

bool ThreadPool::wait_for_tickets() {
  const auto ready = [this] { return unclaimed(tickets_.load()) != 0 || stop_.load(); };
  if (!spin_until(crowded_, ready)) {
    std::unique_lock<std::mutex> lock(mutex_);
    ++sleepers_;
    work_ready_.wait(lock, ready);
    --sleepers_;
  }
  return !stop_.load();
}

void ThreadPool::work(int worker) {
  while (wait_for_tickets()) {
    while (claim_and_run(worker)) {
    }
  }
}

}  // namespace quest::cpu
