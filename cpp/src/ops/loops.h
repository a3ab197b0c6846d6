// SPDX-License-Identifier: MIT
// Nested loops over K operands with strides, merged at planning into as few as possible.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "ops/ops.h"

namespace gruengine {

// Strides (in elements) of a row-major value.
inline Dims row_major(const Dims& dims) {
  Dims strides(dims.size(), 1);
  for (size_t i = dims.size(); i-- > 1;)
    strides[i - 1] = strides[i] * std::max<int64_t>(dims[i], 1);
  return strides;
}

// Strides of a value of shape `dims` seen broadcast to `out`: 0 along repeated axes.
inline Dims broadcast_strides(const Dims& dims, const Dims& out) {
  const Dims own = row_major(dims);
  Dims strides(out.size(), 0);
  const size_t shift = out.size() - dims.size();
  for (size_t i = 0; i < dims.size(); ++i) strides[shift + i] = dims[i] == 1 ? 0 : own[i];
  return strides;
}

// NumPy's broadcast shape of the inputs; refuses those that do not fit.
inline Dims broadcast_dims(const NodeBuilder& b, const std::vector<Dims>& shapes) {
  size_t rank = 0;
  for (const Dims& dims : shapes) rank = std::max(rank, dims.size());
  Dims out(rank, 1);
  for (const Dims& dims : shapes) {
    for (size_t i = 0; i < dims.size(); ++i) {
      int64_t& size = out[rank - dims.size() + i];
      if (dims[i] == 1 || dims[i] == size) continue;
      if (size != 1) {
        b.refuse(ErrorCode::kInvalidArgument, "shapes " + to_string(shapes.front()) + " and " +
                                                  to_string(dims) +
                                                  " differ where neither size is 1");
      }
      size = dims[i];
    }
  }
  return out;
}

template <size_t K>
class Loops {
 public:
  static constexpr size_t kMaxOuter = 8;
  using Offsets = std::array<int64_t, K>;

  // Loops over `dims` in row-major order; strides[k] are those of operand k.
  Loops(const NodeBuilder& b, const Dims& dims, const std::array<Dims, K>& strides) {
    empty_ = std::find(dims.begin(), dims.end(), 0) != dims.end();
    inner_stride_.fill(1);
    bool first = true;
    for (size_t d = dims.size(); d-- > 0;) {
      if (dims[d] == 1) continue;
      Offsets stride;
      for (size_t k = 0; k < K; ++k) stride[k] = strides[k][d];
      if (first) {
        inner_ = dims[d];
        inner_stride_ = stride;
        first = false;
      } else {
        add(b, dims[d], stride);
      }
    }
  }

  int64_t inner() const { return inner_; }
  const Offsets& inner_stride() const { return inner_stride_; }
  size_t outer() const { return outer_; }
  // Loop d around the inner one, 0 the innermost of them.
  int64_t size(size_t d) const { return size_[d]; }
  const Offsets& stride(size_t d) const { return stride_[d]; }
  void remove(size_t d) {
    for (--outer_; d < outer_; ++d) {
      size_[d] = size_[d + 1];
      stride_[d] = stride_[d + 1];
    }
  }

  // Calls body(offsets of each operand) for every run of the inner loop.
  template <class Body>
  void run(const Body& body) const {
    if (empty_) return;
    std::array<int64_t, kMaxOuter> index{};
    Offsets offset{};
    for (;;) {
      body(offset);
      size_t d = 0;
      for (; d < outer_; ++d) {
        if (++index[d] < size_[d]) {
          for (size_t k = 0; k < K; ++k) offset[k] += stride_[d][k];
          break;
        }
        index[d] = 0;
        for (size_t k = 0; k < K; ++k) offset[k] -= stride_[d][k] * (size_[d] - 1);
      }
      if (d == outer_) return;
    }
  }

 private:
  void add(const NodeBuilder& b, int64_t size, const Offsets& stride) {
    const bool is_inner = outer_ == 0;
    int64_t& last_size = is_inner ? inner_ : size_[outer_ - 1];
    const Offsets& last = is_inner ? inner_stride_ : stride_[outer_ - 1];
    bool joins = true;
    for (size_t k = 0; k < K; ++k) joins = joins && stride[k] == last[k] * last_size;
    if (joins) {
      last_size *= size;
      return;
    }
    if (outer_ == kMaxOuter) {
      b.refuse(ErrorCode::kUnsupported, "needs more than " + std::to_string(kMaxOuter + 1) +
                                            " nested loops; at most that many axes may differ");
    }
    size_[outer_] = size;
    stride_[outer_++] = stride;
  }

  bool empty_ = false;
  int64_t inner_ = 1;
  Offsets inner_stride_{};
  size_t outer_ = 0;
  std::array<int64_t, kMaxOuter> size_{};
  std::array<Offsets, kMaxOuter> stride_{};
};

}  // namespace gruengine
