#include "cpu/kv_store.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "core/error.h"

namespace quest::cpu {

namespace {
constexpr int64_t kSlabTokens = 1024;
}

KvStore::KvStore(int64_t n_layers, int64_t n_kv_heads, int64_t head_dim, int page_size)
    : n_layers_(n_layers),
      n_kv_heads_(n_kv_heads),
      head_dim_(head_dim),
      page_size_(page_size),
      slab_pages_(std::max<int64_t>(1, kSlabTokens / page_size)),
      kv_floats_(n_layers * slab_pages_ * n_kv_heads * 2 * page_size * head_dim),
      slab_floats_(kv_floats_ + n_layers * slab_pages_ * n_kv_heads * 2 * head_dim) {}

KvStore::~KvStore() {
  for (float* s : slabs_) ::munmap(s, static_cast<size_t>(slab_floats_) * sizeof(float));
}

void KvStore::grow(int32_t id) {
  while (static_cast<int64_t>(slabs_.size()) <= id / slab_pages_) {
    const size_t bytes = static_cast<size_t>(slab_floats_) * sizeof(float);
    slabs_.reserve(slabs_.size() + 1);
    void* p = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
      throw Error("E_MEMORY", "the system gave no " + std::to_string(bytes >> 20) + " MiB for the KV cache",
                  "use a shorter context, fewer branches, or a machine with more memory");
    }
    slabs_.push_back(static_cast<float*>(p));
  }
}

void KvStore::copy_page(int32_t from, int32_t to) {
  const auto kv = static_cast<size_t>(n_kv_heads_ * 2 * value_offset()) * sizeof(float);
  const auto meta = static_cast<size_t>(2 * head_dim_) * sizeof(float);
  for (int64_t layer = 0; layer < n_layers_; ++layer) {
    std::memcpy(keys(layer, to, 0), keys(layer, from, 0), kv);
    for (int64_t head = 0; head < n_kv_heads_; ++head) {
      std::memcpy(metadata(layer, head, to), metadata(layer, head, from), meta);
    }
  }
}

}  // namespace quest::cpu
