// SPDX-License-Identifier: MIT
#include "ops/copy.h"

#include <cstring>

namespace gruengine {
namespace {

constexpr int64_t kFewBytes = 64;

template <class T>
void copy_row(const T* from, int64_t stride, T* to, int64_t to_stride, int64_t n) {
  if (stride == 1 && to_stride == 1) {
    if (n * int64_t{sizeof(T)} > kFewBytes) {
      std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
    } else {
      for (int64_t i = 0; i < n; ++i) to[i] = from[i];
    }
  } else if (stride == 0 && to_stride == 1) {
    std::fill_n(to, n, *from);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i * to_stride] = from[i * stride];
  }
}

}  // namespace

StridedCopy::StridedCopy(const NodeBuilder& b, DType dtype, const Dims& dims, const Dims& from,
                         const Dims& to)
    : loops_(b, dims, {from, to}), size_(size_of(dtype)) {
  if (loops_.inner_stride()[0] <= 1 || loops_.inner_stride()[1] != 1) return;
  for (size_t d = 0; d < loops_.outer(); ++d) {
    if (loops_.stride(d)[0] != 1) continue;
    columns_ = loops_.size(d);
    column_to_ = loops_.stride(d)[1];
    loops_.remove(d);
    return;
  }
}

template <class T>
void StridedCopy::run_as(const T* from, T* to) const {
  const auto [from_stride, to_stride] = loops_.inner_stride();
  const int64_t n = loops_.inner();
  loops_.run([&](const Loops<2>::Offsets& at) {
    if (columns_ > 1) {
      transpose(from + at[0], from_stride, to + at[1], column_to_, n, columns_);
    } else {
      copy_row(from + at[0], from_stride, to + at[1], to_stride, n);
    }
  });
}

void StridedCopy::run(const char* from, char* to) const {
  switch (size_) {
    case 1:
      return run_as(from, to);
    case 8:
      return run_as(reinterpret_cast<const int64_t*>(from), reinterpret_cast<int64_t*>(to));
    default:
      return run_as(reinterpret_cast<const int32_t*>(from), reinterpret_cast<int32_t*>(to));
  }
}

}  // namespace gruengine
