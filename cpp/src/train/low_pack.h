// SPDX-License-Identifier: MIT
// Matrices of bfloat16 blocks (isa/low_table.h) that are packed anew in each pass.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine/low.h"
#include "train/recurrent.h"

namespace gruengine {

// Two values of neighbouring rows in one column of a block.
inline uint32_t bfloat16_pair(float low, float high) {
  return bfloat16_bits(low) | static_cast<uint32_t>(bfloat16_bits(high)) << 16;
}

// The blocks of a matrix of `form` in bfloat16.
struct LowForm : TrainPanels {
  const LowType* low;

  int64_t stride() const { return block_bytes(*low, k, columns()); }
  int64_t bytes() const { return blocks() * stride(); }
  int64_t groups() const { return padded_rows(*low, k) / 2; }
};

// Blocks [begin, end) of a matrix whose row i is row(i) [n], or zeros where that is nullptr.
template <class Row>
void pack_low_rows(const LowForm& form, int64_t begin, int64_t end, Row row, char* to) {
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * form.columns(), columns = form.whole(block);
    const int64_t used = form.used(block);
    auto* line = reinterpret_cast<uint32_t*>(to + block * form.stride());
    for (int64_t group = 0; group < form.groups(); ++group, line += columns) {
      const float* a = 2 * group < form.k ? row(2 * group) : nullptr;
      const float* b = 2 * group + 1 < form.k ? row(2 * group + 1) : nullptr;
      std::fill(line, line + columns, 0u);
      if (a != nullptr && b != nullptr) {
        for (int64_t c = 0; c < used; ++c) line[c] = bfloat16_pair(a[first + c], b[first + c]);
      } else if (a != nullptr || b != nullptr) {
        for (int64_t c = 0; c < used; ++c) {
          line[c] =
              a != nullptr ? bfloat16_pair(a[first + c], 0.0f) : bfloat16_pair(0.0f, b[first + c]);
        }
      }
    }
  }
}

// One block of `columns` columns, of which the i-th is column(i) [k], or zeros where that is
// nullptr.
template <class Column>
void pack_low_columns(const LowType& low, int64_t k, int64_t columns, Column column, char* to) {
  auto* block = reinterpret_cast<uint32_t*>(to);
  const int64_t groups = padded_rows(low, k) / 2, whole = k / 2;
  // Few groups at a time, so that the lines written stay in the first cache.
  for (int64_t from = 0; from < groups; from += 16) {
    const int64_t until = std::min(groups, from + 16);
    for (int64_t c = 0; c < columns; ++c) {
      const float* x = column(c);
      int64_t g = from;
      for (; x != nullptr && g < std::min(until, whole); ++g) {
        block[g * columns + c] = bfloat16_pair(x[2 * g], x[2 * g + 1]);
      }
      for (; g < until; ++g) {
        const bool last = x != nullptr && g == whole && k % 2 != 0;
        block[g * columns + c] = last ? bfloat16_pair(x[2 * g], 0.0f) : 0u;
      }
    }
  }
}

// Memory for prepared rows of k values.
class LowOperand {
 public:
  LowOperand() = default;
  LowOperand(const LowType& low, int64_t rows, int64_t k)
      : low_(&low), k_(k), stride_(prepared_stride(low, k)), memory_(rows * stride_) {}

  void prepare(const float* from, int64_t ld, int64_t first, int64_t rows) const {
    low_->prepare({rows, k_, from, ld, 0.0f, at(first), stride_, nullptr});
  }
  LowRows rows(int64_t first) const { return {at(first), stride_, nullptr}; }

 private:
  char* at(int64_t row) const { return memory_.bytes() + row * stride_; }

  const LowType* low_ = nullptr;
  int64_t k_ = 0, stride_ = 0;
  Lease memory_;
};

}  // namespace gruengine
