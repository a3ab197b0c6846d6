// SPDX-License-Identifier: MIT
#include "ops/panels.h"

#include "engine/parallel.h"
#include "engine/thread_worth.h"

namespace gruengine {
namespace {

// One block of `columns` places of which `used` hold elements.
void pack_block(const float* from, int64_t row_stride, int64_t column_stride, int64_t rows,
                int64_t used, int64_t columns, float* to) {
  if (column_stride == 1) {
    for (int64_t row = 0; row < rows; ++row) {
      const float* line = from + row * row_stride;
      std::copy_n(line, used, to + row * columns);
      std::fill_n(to + row * columns + used, columns - used, 0.0f);
    }
    return;
  }
  // Few rows at a time, so that the lines written stay in the first cache.
  constexpr int64_t kRows = 32;
  for (int64_t first = 0; first < rows; first += kRows) {
    const int64_t last = std::min(rows, first + kRows);
    for (int64_t column = 0; column < columns; ++column) {
      for (int64_t row = first; row < last; ++row) {
        to[row * columns + column] =
            column < used ? from[row * row_stride + column * column_stride] : 0.0f;
      }
    }
  }
}

}  // namespace

void Panels::pack(const float* from, int64_t row_stride, int64_t column_stride, float* to) const {
  const int64_t block = int64_t{nv} * width;
  for (int64_t first = 0; first < n; first += block) {
    const int64_t used = std::min(block, n - first);
    pack_block(from + first * column_stride, row_stride, column_stride, k, used,
               whole_vectors(used, width), to);
    to += block_stride();
  }
}

void multiply(const Frame& f, void (*gemm)(const GemmArgs&), const GemmArgs& product) {
  if (f.threads <= 1 || product.m < 2 || product.m * product.n * product.k < kSharedProduct) {
    return gemm(product);
  }
  run_helped(f.threads, product.m * product.n * product.k >= kWokenProduct, [&](Team& team) {
    team.share([&](int member) {
      const int64_t first = team.begin(product.m, member);
      GemmArgs part = product;
      part.m = team.end(product.m, member) - first;
      part.a += first * part.lda;
      part.c += first * part.ldc;
      if (part.init != nullptr) part.init += first * part.ldi;
      if (part.m > 0) gemm(part);
    });
  });
}

}  // namespace gruengine
