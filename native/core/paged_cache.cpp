#include "core/paged_cache.h"

#include <map>

namespace quest {

int32_t PagePool::acquire() {
  std::lock_guard lock(mutex_);
  if (free_.empty()) {
    const auto id = static_cast<int32_t>(refs_.size());
    refs_.push_back(1);
    try {
      on_grow_(id);
    } catch (...) {
      refs_.pop_back();
      throw;
    }
    return id;
  }
  const int32_t id = free_.top();
  free_.pop();
  refs_[static_cast<size_t>(id)] = 1;
  return id;
}

void PagePool::retain(int32_t id) {
  std::lock_guard lock(mutex_);
  ++refs_[static_cast<size_t>(id)];
}

void PagePool::release(int32_t id) {
  std::lock_guard lock(mutex_);
  if (--refs_[static_cast<size_t>(id)] == 0) free_.push(id);
}

int32_t PagePool::references(int32_t id) const {
  std::lock_guard lock(mutex_);
  return refs_[static_cast<size_t>(id)];
}

int64_t PagePool::in_use() const {
  std::lock_guard lock(mutex_);
  return static_cast<int64_t>(refs_.size() - free_.size());
}

PageTable::PageTable(const PageTable& other)
    : pool_(other.pool_), page_size_(other.page_size_), length_(other.length_), pages_(other.pages_) {
  for (int32_t id : pages_) pool_->retain(id);
}

PageTable::~PageTable() {
  for (int32_t id : pages_) pool_->release(id);
}

std::optional<PageCopy> PageTable::extend(int64_t n) {
  const int64_t want = (length_ + n + page_size_ - 1) / page_size_;
  const bool copy = must_copy(n);
  std::vector<int32_t> fresh;
  fresh.reserve(static_cast<size_t>(want - static_cast<int64_t>(pages_.size()) + 1));
  pages_.reserve(static_cast<size_t>(want));
  try {
    while (static_cast<int64_t>(pages_.size() + fresh.size()) < want + (copy ? 1 : 0)) fresh.push_back(pool_->acquire());
  } catch (...) {
    for (int32_t id : fresh) pool_->release(id);
    throw;
  }
  std::optional<PageCopy> result;
  size_t next = 0;
  if (copy) {
    result = PageCopy{pages_.back(), fresh[next]};
    pool_->release(pages_.back());
    pages_.back() = fresh[next++];
  }
  pages_.insert(pages_.end(), fresh.begin() + static_cast<std::ptrdiff_t>(next), fresh.end());
  length_ += n;
  return result;
}

int64_t PageTable::pages_to_extend(int64_t n) const {
  return (length_ + n + page_size_ - 1) / page_size_ - static_cast<int64_t>(pages_.size()) + (must_copy(n) ? 1 : 0);
}

int64_t PageTable::pages_to_extend(std::span<const Extension> all) {
  int64_t pages = 0;
  std::map<int32_t, int32_t> writers;  // of each open page
  for (const auto& [table, n] : all) {
    pages += table->pages_to_extend(n);
    if (!table->must_copy(n)) continue;
    const int32_t open = table->pages_.back();
    if (++writers[open] == table->pool_->references(open)) --pages;
  }
  return pages;
}

void PageTable::shrink(int64_t n) {
  length_ -= n;
  const auto left = static_cast<size_t>((length_ + page_size_ - 1) / page_size_);
  for (; pages_.size() > left; pages_.pop_back()) pool_->release(pages_.back());
}

}  // namespace quest
