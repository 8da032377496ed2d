// Where the CPU executor keeps keys, values and page metadata, in fp32.
//
// Pages live in slabs of 1024 tokens. Within a slab: keys and values [layer][page][kv head][K|V][page_size][head_dim],
// metadata as its own stream [layer][kv head][page][min|max][head_dim]. Slabs are mapped, not touched: a page costs memory
// only once it is written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace quest::cpu {

class KvStore {
 public:
  KvStore(int64_t n_layers, int64_t n_kv_heads, int64_t head_dim, int page_size);
  ~KvStore();
  KvStore(const KvStore&) = delete;
  KvStore& operator=(const KvStore&) = delete;

  // Makes room for page `id`. Throws Error E_MEMORY when the system has none.
  void grow(int32_t id);
  void copy_page(int32_t from, int32_t to);

  int page_size() const { return static_cast<int>(page_size_); }

  // [page_size, head_dim]; the values follow the keys at value_offset().
  float* keys(int64_t layer, int32_t page, int64_t head) {
    return slab(page) + ((layer * slab_pages_ + page % slab_pages_) * n_kv_heads_ + head) * 2 * value_offset();
  }
  int64_t value_offset() const { return page_size_ * head_dim_; }

  // [2, head_dim], minima then maxima.
  float* metadata(int64_t layer, int64_t head, int32_t page) {
    return slab(page) + kv_floats_ + ((layer * n_kv_heads_ + head) * slab_pages_ + page % slab_pages_) * 2 * head_dim_;
  }
  // Pages from `page` on, itself included, whose metadata follow without a gap.
  int64_t metadata_run(int32_t page) const { return slab_pages_ - page % slab_pages_; }

 private:
  float* slab(int32_t page) { return slabs_[static_cast<size_t>(page / slab_pages_)]; }

  int64_t n_layers_, n_kv_heads_, head_dim_, page_size_, slab_pages_, kv_floats_, slab_floats_;
  std::vector<float*> slabs_;
};

}  // namespace quest::cpu
