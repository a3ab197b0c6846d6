// SPDX-License-Identifier: MIT
// Aligned memory. Large blocks ask for huge pages: streaming packed weights through 4 KiB pages
// costs up to half of the L2 bandwidth.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "gruengine/allocator.h"

namespace gruengine {

constexpr size_t kAlignment = 64;

// Zeroed bytes aligned to 64, or to 2 MiB with huge pages asked for when `huge`.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes, bool huge = false);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();

  char* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
  size_t allocated_ = 0;             // with the rounding
  const Allocator* from_ = nullptr;  // nullptr: the C library
};

// Memory handed out in order and freed all at once. Addresses never move.
class Arena {
 public:
  explicit Arena(int64_t expected = 0) : huge_(expected >= kHugeFrom) {}
  // 64-byte aligned and zeroed.
  char* take(int64_t bytes);
  int64_t bytes() const { return taken_; }

 private:
  static constexpr int64_t kHugeFrom = 256 << 10;
  bool huge_;
  std::vector<Buffer> blocks_;
  size_t used_ = 0;
  int64_t taken_ = 0;
};

}  // namespace gruengine
