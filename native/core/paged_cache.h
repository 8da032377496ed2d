// Page bookkeeping shared by all executors: reference counts, page tables, copy on write. Storage belongs to the executors.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <queue>
#include <span>
#include <vector>

namespace quest {

// Hands out page ids 0, 1, 2, ... with reference counts; the lowest free id first, so that storage stays dense.
class PagePool {
 public:
  // on_grow(id) is called, under the pool's lock, before id is handed out for the first time; it may throw to refuse.
  explicit PagePool(std::function<void(int32_t id)> on_grow) : on_grow_(std::move(on_grow)) {}

  int32_t acquire();
  void retain(int32_t id);
  void release(int32_t id);
  int32_t references(int32_t id) const;
  int64_t in_use() const;

 private:
  mutable std::mutex mutex_;
  std::function<void(int32_t)> on_grow_;
  std::vector<int32_t> refs_;
  std::priority_queue<int32_t, std::vector<int32_t>, std::greater<>> free_;
};

// A page that must be copied before its owner may write to it.
struct PageCopy {
  int32_t from;
  int32_t to;
};

// The pages of one branch. Copying the table forks it: both share all pages.
class PageTable {
 public:
  PageTable(std::shared_ptr<PagePool> pool, int page_size) : pool_(std::move(pool)), page_size_(page_size) {}
  PageTable(const PageTable& other);
  PageTable& operator=(const PageTable&) = delete;
  ~PageTable();

  int page_size() const { return page_size_; }
  int64_t length() const { return length_; }  // tokens
  const std::vector<int32_t>& pages() const { return pages_; }

  // Makes room for n more tokens and counts them. When the open page was shared, its copy takes its place in the table and
  // the caller must copy the contents. Strong guarantee: on an exception nothing has changed.
  std::optional<PageCopy> extend(int64_t n);
  // Pages that extend(n) would take from the pool.
  int64_t pages_to_extend(int64_t n) const;
  struct Extension {
    const PageTable* table;
    int64_t n;
  };
  // Pages that all these of different tables of one pool would take: the last sharer of an open page needs no copy of it.
  static int64_t pages_to_extend(std::span<const Extension> all);
  // Gives back the last n tokens, and the pages that then hold none.
  void shrink(int64_t n);

 private:
  bool must_copy(int64_t n) const { return n > 0 && length_ % page_size_ != 0 && pool_->references(pages_.back()) > 1; }

  std::shared_ptr<PagePool> pool_;
  int page_size_;
  int64_t length_ = 0;
  std::vector<int32_t> pages_;
};

}  // namespace quest
