// SPDX-License-Identifier: MIT
#include "train/pool.h"

#include <algorithm>
#include <mutex>
#include <vector>

namespace gruengine {
namespace {

constexpr size_t kHugeFrom = size_t{1} << 20;

class BufferPool {
 public:
  Buffer take(size_t bytes) {
    bytes = (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
    {
      const std::lock_guard lock(mutex_);
      auto best = spare_.end();
      for (auto it = spare_.begin(); it != spare_.end(); ++it) {
        const bool fits = it->size() >= bytes && it->size() / 2 <= bytes;
        if (fits && (best == spare_.end() || it->size() < best->size())) best = it;
      }
      if (best != spare_.end()) {
        Buffer found = std::move(*best);
        spare_.erase(best);
        kept_ -= found.size();
        count(found.size());
        return found;
      }
      count(bytes);
    }
    try {
      return Buffer(bytes, bytes >= kHugeFrom);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      used_ -= bytes;
      throw;
    }
  }

  void give(Buffer buffer) noexcept {
    const std::lock_guard lock(mutex_);
    used_ -= buffer.size();
    kept_ += buffer.size();
    spare_.push_back(std::move(buffer));
  }

 private:
  // Those unused for longest make room.
  void count(size_t bytes) {
    used_ += bytes;
    most_ = std::max(most_, used_);
    while (!spare_.empty() && used_ + kept_ > most_) {
      kept_ -= spare_.front().size();
      spare_.erase(spare_.begin());
    }
  }

  std::mutex mutex_;
  std::vector<Buffer> spare_;
  size_t used_ = 0, kept_ = 0, most_ = 0;  // bytes
};

// Never destroyed: leases of the last objects of a process may end after it would be.
BufferPool& pool() {
  static auto* const the_pool = new BufferPool;
  return *the_pool;
}

}  // namespace

Lease::Lease(size_t bytes) : buffer_(pool().take(bytes)) {}

Lease::~Lease() {
  if (buffer_.data() != nullptr) pool().give(std::move(buffer_));
}

}  // namespace gruengine
