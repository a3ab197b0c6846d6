// SPDX-License-Identifier: MIT
// Memory of training passes, kept for the next ones: new pages cost more than what is done in them.
#pragma once

#include <cstddef>
#include <utility>

#include "engine/buffer.h"

namespace gruengine {

// Memory from a pool of the process, with whatever was in it, that goes back at the end. What the
// pool keeps and what is in use together are never more than was once in use.
class Lease {
 public:
  Lease() = default;
  explicit Lease(size_t bytes);
  Lease(Lease&& other) noexcept = default;
  Lease& operator=(Lease&& other) noexcept {
    std::swap(buffer_, other.buffer_);
    return *this;
  }
  ~Lease();
  char* bytes() const { return buffer_.data(); }
  float* floats() const { return reinterpret_cast<float*>(bytes()); }

 private:
  Buffer buffer_;
};

}  // namespace gruengine
