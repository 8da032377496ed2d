// The models of this process on each GPU, and what they must not do beside each other.
//
// All blocks of a chain of 4-bit products wait for each other, those of a fused Quest step for their head's: beside a chain, each
// could wait for ever for room that the other holds. So a model runs chains that is alone when it moves in, and one that moves
// in beside it waits for nobody. Processes take turns on a GPU as a whole (where they do not, see int4_chain_refusal).
#pragma once

#include <mutex>
#include <string>

#include "core/error.h"

namespace quest::cuda {

class Neighbour {
 public:
  Neighbour() = default;
  Neighbour(const Neighbour&) = delete;
  Neighbour& operator=(const Neighbour&) = delete;
  ~Neighbour() {
    if (!house_) return;
    std::lock_guard guard(mutex_);
    --house_->models;
    if (chains_) house_->chains = false;
  }

  // Once, with what the model would run if it were alone.
  void move_in(int device, bool chains, bool fuses) {
    if (device < 0 || device >= kDevices) {
      throw Error("E_CUDA", "GPU " + std::to_string(device) + ": GPUs 0.." + std::to_string(kDevices - 1) + " can be used");
    }
    std::lock_guard guard(mutex_);
    house_ = &houses_[device];
    if (chains && house_->models > 0) {
      unchained_ = house_->chains ? "another model of this process runs them in chains" : "another model of this process is on this GPU";
    }
    if (fuses && house_->chains) unfused_ = "another model of this process runs 4-bit products in chains";
    chains_ = chains && unchained_.empty();
    fuses_ = fuses && unfused_.empty();
    house_->chains = house_->chains || chains_;
    ++house_->models;
  }

  bool chains() const { return chains_; }
  bool fuses() const { return fuses_; }
  // Why not, where another model is the reason; else empty.
  const std::string& unchained() const { return unchained_; }
  const std::string& unfused() const { return unfused_; }

 private:
  static constexpr int kDevices = 64;
  struct House {
    int models;
    bool chains;  // one of them runs them
  };
  static inline std::mutex mutex_;
  static inline House houses_[kDevices] = {};

  House* house_ = nullptr;
  bool chains_ = false, fuses_ = false;
  std::string unchained_, unfused_;
};

}  // namespace quest::cuda
