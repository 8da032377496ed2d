// What a long call shares with whoever started it: a cancel flag and a place to report progress.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "core/error.h"

namespace quest {

struct JobControl {
  std::atomic<bool> cancelled{false};
  std::function<void(int64_t done, int64_t total)> progress;

  // Called between layers, so that an interrupt takes effect within milliseconds.
  void check() const {
    if (cancelled.load(std::memory_order_relaxed)) throw Error("E_CANCELLED", "the job was cancelled");
  }
  void report(int64_t done, int64_t total) const {
    if (progress) progress(done, total);
  }
};

}  // namespace quest
