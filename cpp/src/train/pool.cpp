// SPDX-License-Identifier: MIT
#include "train/pool.h"

#include <algorithm>

namespace gruengine {
namespace {

constexpr size_t kHugeFrom = size_t{1} << 20;
constexpr size_t kSpares = 12;

}  // namespace

Buffer BufferPool::take(size_t bytes) {
  bytes = std::max<size_t>(bytes, kAlignment);
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
      return found;
    }
  }
  return Buffer((bytes + kAlignment - 1) / kAlignment * kAlignment, bytes >= kHugeFrom);
}

void BufferPool::give(Buffer buffer) {
  const std::lock_guard lock(mutex_);
  if (spare_.size() >= kSpares) spare_.erase(spare_.begin());  // the one unused for longest
  spare_.push_back(std::move(buffer));
}

}  // namespace gruengine
