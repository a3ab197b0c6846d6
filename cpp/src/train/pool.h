// SPDX-License-Identifier: MIT
// Memory of training passes, kept for the next ones: new pages cost more than what is done in them.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/buffer.h"

namespace gruengine {

class BufferPool {
 public:
  // At least so many bytes, with whatever was in them.
  Buffer take(size_t bytes);
  void give(Buffer buffer);

 private:
  std::mutex mutex_;
  std::vector<Buffer> spare_;
};

// Memory from a pool that goes back to it at the end.
class Lease {
 public:
  Lease() = default;
  Lease(std::shared_ptr<BufferPool> pool, size_t bytes)
      : pool_(std::move(pool)), buffer_(pool_->take(bytes)) {}
  Lease(Lease&& other) noexcept = default;
  Lease& operator=(Lease&& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(buffer_, other.buffer_);
    return *this;
  }
  ~Lease() {
    if (pool_ != nullptr) pool_->give(std::move(buffer_));
  }
  float* floats() const { return reinterpret_cast<float*>(buffer_.data()); }

 private:
  std::shared_ptr<BufferPool> pool_;
  Buffer buffer_;
};

}  // namespace gruengine
