#include "cuda/generation.h"

#include <algorithm>

namespace quest::cuda {

namespace {

struct Generation {
  Forward& forward;
  std::span<CudaBranch* const> branches;
  const GenerateOptions& options;
  const std::function<void(int64_t, int32_t)>& on_token;
  const JobControl& job;
  std::vector<std::vector<int32_t>> out;

  // False for a stop id.
  bool take(size_t branch, int32_t id) {
    if (std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end()) return false;
    out[branch].push_back(id);
    on_token(static_cast<int64_t>(branch), id);
    return true;
  }

  // The branches whose next token, chosen by `choose` from the logits on the host, is no stop id.
  template <class Choose>
  std::vector<size_t> take_from_logits(const std::vector<size_t>& live, Choose&& choose) {
    std::vector<size_t> still;
    for (size_t i : live) {
      if (take(i, choose(i, branches[i]->last_logits))) still.push_back(i);
    }
    return still;
  }

  // Whether the cache has the pages that one more token of each takes.
  bool has_room(std::span<const size_t> live) const {
    std::vector<PageTable::Extension> all;
    for (size_t i : live) all.push_back({&branches[i]->pages, 1});
    return branches[live[0]]->pool->has_room(PageTable::pages_to_extend(all));
  }

  // Sends a step of these branches with the last tokens taken, or, fed, with those that the step before it chooses.
  void send(std::span<const size_t> live, bool fed) {
    std::vector<CudaBranch*> stepping;
    std::vector<int32_t> ids;
    for (size_t i : live) {
      stepping.push_back(branches[i]);
      branches[i]->last_logits.clear();  // not the cache's any more
      if (!fed) ids.push_back(out[i].back());
    }
    if (!fed && !has_room(live)) branches[live[0]]->pool->refuse();
    forward.send(stepping, ids);
  }

  void ahead(std::vector<size_t> live);
  void in_step(std::vector<size_t> live);
};

// Greedy, one step ahead of the host.
void Generation::ahead(std::vector<size_t> live) {
  live = take_from_logits(live, [](size_t, const std::vector<float>& logits) { return greedy(logits); });
  const int64_t wanted = options.max_tokens - 1;  // steps: the last token does not enter the cache
  int64_t sent = 0, received = 0;
  std::vector<size_t> flying;  // the branches of the steps under way: a branch that stopped is among them until they have landed
  const auto lives = [&](size_t i) { return std::find(live.begin(), live.end(), i) != live.end(); };
  // Receives the one step under way, whose tokens nobody takes: what has stopped does not keep it.
  const auto land = [&] {
    const Step step = forward.receive();
    for (size_t row = 0; row < flying.size(); ++row) {
      if (lives(flying[row])) {
        forward.fetch_logits(step, row, branches[flying[row]]->last_logits);
      } else {
        forward.take_back(step, row);
      }
    }
  };
  while (!live.empty() && received < wanted) {
    if (forward.under_way() == 0) {
      flying = live;
      send(flying, false);
      ++sent;
    }
    if (job.cancelled) {
      land();
      job.check();
    }
    if (flying.size() == live.size() && sent < wanted && has_room(live)) {
      send(flying, true);
      ++sent;
    }
    const Step step = forward.receive();
    ++received;
    std::vector<size_t> still;
    for (size_t row = 0; row < flying.size(); ++row) {
      const size_t i = flying[row];
      if (!lives(i)) {
        forward.take_back(step, row);
        continue;
      }
      const bool goes_on = take(i, step.ids[row]);
      if (goes_on) still.push_back(i);
      if (!goes_on || received == wanted) forward.fetch_logits(step, row, branches[i]->last_logits);
    }
    live = std::move(still);
    job.report(received, options.max_tokens);
  }
  if (forward.under_way() > 0) land();
}

// The host chooses every token: for sampling (the sampler is on the host), for branches that one pass cannot hold, and for
// lists of tokens, which the host reads as each layer passes.
void Generation::in_step(std::vector<size_t> live) {
  std::vector<Sampler> samplers(branches.size(), Sampler(options.sampling));
  for (int64_t done = 0; done < options.max_tokens && !live.empty(); ++done) {
    job.check();
    live = take_from_logits(live, [&](size_t i, const std::vector<float>& logits) { return samplers[i].next(logits); });
    if (done + 1 == options.max_tokens) break;
    // One pass reads one pool.
    const auto pool_of = [&](size_t i) { return branches[i]->pool.get(); };
    std::stable_sort(live.begin(), live.end(), [&](size_t a, size_t b) { return pool_of(a) < pool_of(b); });
    for (size_t begin = 0, end = 0; begin < live.size(); begin = end) {
      while (end < live.size() && end - begin < static_cast<size_t>(kStepRows) && pool_of(live[end]) == pool_of(live[begin])) ++end;
      const auto pass = std::span<const size_t>(live).subspan(begin, end - begin);
      send(pass, false);
      const Step step = forward.receive();
      for (size_t row = 0; row < pass.size(); ++row) forward.fetch_logits(step, row, branches[pass[row]]->last_logits);
    }
    job.report(done + 1, options.max_tokens);
  }
}

}  // namespace

std::vector<std::vector<int32_t>> generate(Forward& forward, std::span<CudaBranch* const> branches, const GenerateOptions& options,
                                           const std::function<void(int64_t, int32_t)>& on_token, const JobControl& job) {
  Generation g{forward, branches, options, on_token, job, std::vector<std::vector<int32_t>>(branches.size())};
  if (options.max_tokens <= 0 || branches.empty()) return g.out;
  std::vector<size_t> live(branches.size());
  for (size_t i = 0; i < live.size(); ++i) live[i] = i;
  const bool runs_ahead = options.sampling.temperature <= 0 && branches.size() <= static_cast<size_t>(kStepRows) &&
                          std::all_of(branches.begin(), branches.end(), [&](const CudaBranch* b) { return b->pool == branches[0]->pool && !selects_tokens(b->method); });
  try {
    if (runs_ahead) {
      g.ahead(std::move(live));
    } else {
      g.in_step(std::move(live));
    }
  } catch (...) {
    forward.abandon();
    throw;
  }
  for (CudaBranch* b : branches) b->saved_tokens.release(), b->saved_scores.release();
  return g.out;
}

}  // namespace quest::cuda
