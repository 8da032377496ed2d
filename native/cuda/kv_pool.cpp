#include "cuda/kv_pool.h"

#include "cuda/memory_plan.h"

namespace quest::cuda {

namespace {

std::string mib(int64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

[[noreturn]] void refuse(int64_t tokens, const std::string& numbers) {
  throw Error("E_GPU_MEMORY", "the GPU's cache is full: it holds " + std::to_string(tokens) + " tokens of all sequences (" + numbers + ")",
              "use a shorter context, fewer sequences at a time, or a GPU with more memory");
}

}  // namespace

KvPool::KvPool(const ModelSpec& spec, int page_size, int64_t most_tokens)
    : n_layers_(spec.n_layers), n_kv_heads_(spec.n_kv_heads), head_dim_(spec.head_dim), page_size_(page_size),
      page_elements_(spec.n_kv_heads * 2 * page_size * spec.head_dim), metadata_elements_(spec.n_kv_heads * 2 * spec.head_dim) {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  const int64_t page_bytes = kv_page_bytes(spec, page_size) + metadata_page_bytes(spec);
  pages_ = pages_that_fit(spec, page_size, static_cast<int64_t>(free), most_tokens);
  numbers_ = "one token's keys and values take " + std::to_string(page_bytes / page_size) + " bytes over " +
             std::to_string(n_layers_) + " layers, and " + mib(static_cast<int64_t>(free)) + " of the GPU's " +
             mib(static_cast<int64_t>(total)) + " were free";
  if (pages_ < 1) throw Error("E_GPU_MEMORY", "there is no room for a cache: " + numbers_, "free the GPU's memory or use a smaller model");
  kv_.resize(static_cast<size_t>(n_layers_ * pages_ * page_elements_));
  metadata_.resize(static_cast<size_t>(n_layers_ * pages_ * metadata_elements_));
  pool_ = std::make_shared<PagePool>([capacity = pages_, page_size, numbers = numbers_](int32_t id) {
    if (id >= capacity) quest::cuda::refuse(capacity * page_size, numbers);
  });
}

void KvPool::refuse() const { quest::cuda::refuse(pages_ * page_size_, numbers_); }

void KvPool::copy_page(const PageCopy& copy, cudaStream_t stream) const {
  // The page's keys and values lie together in a layer (one copy per layer: a 2D copy's pitch is limited to 2 GiB); its
  // metadata are one piece per KV head.
  for (int64_t l = 0; l < n_layers_; ++l) {
    uint16_t* layer = kv_.get() + l * pages_ * page_elements_;
    check(cudaMemcpyAsync(layer + copy.to * page_elements_, layer + copy.from * page_elements_, static_cast<size_t>(page_elements_ * 2),
                          cudaMemcpyDeviceToDevice, stream),
          "copy of a page");
  }
  const auto width = static_cast<size_t>(2 * head_dim_ * 2), pitch = static_cast<size_t>(pages_) * width;
  check(cudaMemcpy2DAsync(metadata_.get() + copy.to * 2 * head_dim_, pitch, metadata_.get() + copy.from * 2 * head_dim_, pitch, width,
                          static_cast<size_t>(n_layers_ * n_kv_heads_), cudaMemcpyDeviceToDevice, stream),
        "copy of a page's metadata");
}

}  // namespace quest::cuda
