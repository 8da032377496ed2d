// Generation on the GPU: token by token from each branch's last logits, as Executor::generate says.
//
// Greedy tokens are chosen on the device and feed the next step there. The host reads them one step behind: while step n
// runs, step n + 1 is already sent, so the GPU never waits for the host. A step that turns out to lie beyond a stop id is taken
// back, and everything (tokens, caches, counters, what follows) is bit for bit as if it had not been sent.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "core/executor.h"
#include "cuda/branch.h"
#include "cuda/forward.h"

namespace quest::cuda {

// The branches are usable and have last logits. A cancelled generation leaves them whole: every token that was reported
// is in the cache, and the logits that follow are kept.
std::vector<std::vector<int32_t>> generate(Forward& forward, std::span<CudaBranch* const> branches, const GenerateOptions& options,
                                           const std::function<void(int64_t, int32_t)>& on_token, const JobControl& job);

}  // namespace quest::cuda
