// The captured graphs of decode steps, by what their launches depend on. A context that grows, or a table of many methods and budgets,
// goes through ever new shapes, so only those used last are kept.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

namespace quest::cuda {

class StepGraphs {
 public:
  using Shape = std::vector<int64_t>;

  // A table of 60 cells that are stepped one by one, each step from either slot, keeps all of its graphs.
  explicit StepGraphs(size_t most = 128) : most_(most) {}
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;
  ~StepGraphs() { clear(); }

  // Where the graph of a shape is, or goes; null at the first sight of a shape. A new one takes the place of the one used longest ago.
  cudaGraphExec_t* find(const Shape& shape) {
    const auto found = graphs_.find(shape);
    if (found != graphs_.end()) {
      found->second.used = ++clock_;
      return &found->second.exec;
    }
    if (graphs_.size() == most_) {
      const auto oldest = std::min_element(graphs_.begin(), graphs_.end(), [](const auto& a, const auto& b) { return a.second.used < b.second.used; });
      destroy(oldest->second);
      graphs_.erase(oldest);
    }
    graphs_[shape] = {nullptr, ++clock_};
    return nullptr;
  }

  void clear() {
    for (const auto& [shape, graph] : graphs_) destroy(graph);
    graphs_.clear();
  }

  size_t size() const { return graphs_.size(); }

 private:
  struct Graph {
    cudaGraphExec_t exec;
    uint64_t used;
  };
  static void destroy(const Graph& graph) {
    if (graph.exec) cudaGraphExecDestroy(graph.exec);  // one that is running is freed when it is done
  }

  size_t most_;
  std::map<Shape, Graph> graphs_;
  uint64_t clock_ = 0;
};

}  // namespace quest::cuda
