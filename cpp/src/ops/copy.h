// SPDX-License-Identifier: MIT
// Copies between two strided views, decided once: runs, transposed tiles, or single elements.
#pragma once

#include "ops/loops.h"

namespace gruengine {

// to[column * to_stride + row] = from[row * from_stride + column], tile by tile.
template <class T>
void transpose(const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t rows,
               int64_t columns) {
  constexpr int64_t kTile = 16;
  for (int64_t r = 0; r < rows; r += kTile) {
    const int64_t row_end = std::min(rows, r + kTile);
    for (int64_t c = 0; c < columns; c += kTile) {
      const int64_t column_end = std::min(columns, c + kTile);
      for (int64_t column = c; column < column_end; ++column) {
        T* line = to + column * to_stride;
        for (int64_t row = r; row < row_end; ++row) line[row] = from[row * from_stride + column];
      }
    }
  }
}

class StridedCopy {
 public:
  // Copies dims elements of `dtype`; strides in elements, of any sign, 0 to repeat a source.
  StridedCopy(const NodeBuilder& b, DType dtype, const Dims& dims, const Dims& from,
              const Dims& to);
  void run(const char* from, char* to) const;
  template <class T>
  void run(const T* from, T* to) const {
    run(reinterpret_cast<const char*>(from), reinterpret_cast<char*>(to));
  }

 private:
  template <class T>
  void run_as(const T* from, T* to) const;

  Loops<2> loops_;
  int64_t size_;           // bytes of an element
  int64_t columns_ = 1;    // a second inner loop whose source is contiguous, when there is one
  int64_t column_to_ = 0;  // its stride in the destination
};

}  // namespace gruengine
