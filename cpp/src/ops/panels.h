// SPDX-License-Identifier: MIT
// Matrix products of operators: packing while the plan runs, and calls of the gemm kernel.
#pragma once

#include <algorithm>

#include "engine/op.h"

namespace gruengine {

// The form of a matrix of k rows and n columns packed in scratch.
struct Panels {
  int64_t k, n;
  int32_t nv;
  int32_t width;

  Panels(int64_t rows, int64_t columns, int32_t vector_width)
      : k(rows), n(columns), width(vector_width) {
    nv = static_cast<int32_t>(std::clamp<int64_t>((n + width - 1) / width, 1, 4));
  }
  int64_t block_stride() const { return k * nv * width; }
  int64_t bytes() const {
    return k * ((n + width - 1) / width) * width * static_cast<int64_t>(sizeof(float));
  }
  PackedMatrix at(const float* data) const { return {data, k, n, nv, block_stride()}; }
  // Packs element (row, column) = from[row * row_stride + column * column_stride].
  void pack(const float* from, int64_t row_stride, int64_t column_stride, float* to) const;
};

// n rounded up to whole vectors.
inline int64_t whole_vectors(int64_t n, int32_t width) { return (n + width - 1) / width * width; }

// The arguments of c[m, b.n] = init + a[m, b.k] b.
inline GemmArgs product_of(int64_t m, const float* a, int64_t lda, const PackedMatrix& b,
                           const float* init, int64_t ldi, float* c, int64_t ldc) {
  return {m, b.n, b.k, a, lda, b.data, b.block_stride, b.nv, init, ldi, c, ldc};
}

// The product on the threads of the run: each takes some of the rows.
void multiply(const Frame& f, void (*gemm)(const GemmArgs&), const GemmArgs& product);

}  // namespace gruengine
