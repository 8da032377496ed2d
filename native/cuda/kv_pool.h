// Where the GPU keeps keys, values and page metadata of all branches with one page size.
//
// One allocation of a fixed number of pages, taken when the first sequence of that page size is made. Keys and values
// [layer][page][kv head][K|V][page_size][head_dim], metadata as its own stream [layer][kv head][page][min|max][head_dim].
#pragma once

#include <memory>

#include "core/model_spec.h"
#include "core/paged_cache.h"
#include "cuda/launch.h"

namespace quest::cuda {

class KvPool {
 public:
  // Takes what is free, but no more than `most_tokens` need. Throws Error E_GPU_MEMORY when not even one page fits.
  KvPool(const ModelSpec& spec, int page_size, int64_t most_tokens);

  int page_size() const { return page_size_; }
  int64_t capacity() const { return pages_; }
  const std::shared_ptr<PagePool>& pages() const { return pool_; }

  void* kv(int64_t layer) const { return kv_.get() + layer * kv_stride(); }
  void* metadata(int64_t layer) const { return metadata_.get() + layer * metadata_stride(); }
  // From one layer's to the next one's, in elements.
  int64_t kv_stride() const { return pages_ * page_elements_; }
  int64_t metadata_stride() const { return pages_ * metadata_elements_; }
  // Whether n pages are free, so that a long prefill is refused before it starts.
  bool has_room(int64_t n) const { return pool_->in_use() + n <= pages_; }
  [[noreturn]] void refuse() const;  // throws Error E_GPU_MEMORY
  void copy_page(const PageCopy& copy, cudaStream_t stream) const;

 private:
  int64_t n_layers_, n_kv_heads_, head_dim_;
  int page_size_;
  int64_t page_elements_, metadata_elements_;  // of one page in one layer, all KV heads
  int64_t pages_ = 0;
  Buffer<uint16_t> kv_, metadata_;
  std::string numbers_;  // what the capacity follows from
  std::shared_ptr<PagePool> pool_;
};

}  // namespace quest::cuda
