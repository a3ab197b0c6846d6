// SPDX-License-Identifier: MIT
// Matrices packed as isa/low_table.h describes it, and rows prepared by the kernels under test.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#include "isa/low_table.h"
#include "kernel_cases.h"

namespace gruengine::test {

// The nearest bfloat16 (ties to even) of a finite float.
inline uint16_t bfloat16_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline float from_bfloat16(uint16_t b) {
  const uint32_t bits = static_cast<uint32_t>(b) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

using Element = std::function<float(int64_t row, int64_t column)>;

// Writes one block of `columns` columns and k rows at `to`; int8 elements are integers and
// scale(column) their scale.
inline void pack_block(const LowKernels& low, int64_t k, int64_t columns, const Element& at,
                       const std::function<float(int64_t)>& scale, char* to) {
  if (low.scaled) {
    for (int64_t c = 0; c < columns; ++c) {
      int32_t sum = 0;
      for (int64_t i = 0; i < k; ++i) sum += static_cast<int32_t>(at(i, c));
      const float s = scale(c);
      const int32_t start = -low.zero_point * sum;
      std::memcpy(to + c * 4, &s, 4);
      std::memcpy(to + (columns + c) * 4, &start, 4);
    }
    to += columns * 8;
  }
  for (int64_t i = 0; i < padded_rows(low, k); ++i) {
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t place = (i / low.group * columns + c) * low.group + i % low.group;
      const float value = i < k ? at(i, c) : 0.0f;
      if (low.scaled) {
        reinterpret_cast<int8_t*>(to)[place] = static_cast<int8_t>(value);
      } else {
        reinterpret_cast<uint16_t*>(to)[place] = bfloat16_bits(value);
      }
    }
  }
}

// A matrix [k, n] in blocks of nv vectors of `width` columns.
struct LowPacked {
  LowPacked(const LowKernels& low, int64_t k, int64_t n, int nv, int width, const Element& at,
            const std::function<float(int64_t)>& scale)
      : stride(block_bytes(low, k, int64_t{nv} * width)),
        data((n + nv * width - 1) / (nv * width) * stride / 4) {
    const int64_t vectors = (n + width - 1) / width;
    for (int64_t first = 0; first < vectors; first += nv) {
      const int64_t columns = std::min<int64_t>(nv, vectors - first) * width;
      const int64_t from = first * width;
      pack_block(
          low, k, columns, [&](int64_t i, int64_t c) { return from + c < n ? at(i, from + c) : 0; },
          [&](int64_t c) { return from + c < n ? scale(from + c) : 0; },
          reinterpret_cast<char*>(data.data()) + first / nv * stride);
    }
  }
  int64_t stride;  // bytes
  Aligned data;
};

// Rows prepared by `low`, and what they stand for.
struct LowPrepared {
  LowPrepared(const LowKernels& low, Guarded& from, int64_t rows, int64_t k, float range)
      : stride(prepared_stride(low, k)),
        data(rows * stride / 4, 1e30f),
        scale(static_cast<size_t>(rows)) {
    low.prepare({rows, k, from.data(), from.ld(), range, data.data(), stride,
                 low.scaled ? scale.data() : nullptr});
  }
  LowRows rows(const LowKernels& low) {
    return {data.data(), stride, low.scaled ? scale.data() : nullptr};
  }
  // Prepared value i of a row: an integer for int8, a rounded float for bfloat16.
  float value(const LowKernels& low, int64_t row, int64_t i) {
    const char* at =
        reinterpret_cast<const char*>(data.data()) + row * stride + i * low.value_bytes;
    if (low.value_bytes == 4) {
      float x;
      std::memcpy(&x, at, 4);
      return x;
    }
    if (low.value_bytes == 2) {
      uint16_t x;
      std::memcpy(&x, at, 2);
      return from_bfloat16(x);
    }
    const auto byte = *reinterpret_cast<const uint8_t*>(at);
    return low.zero_point != 0 ? static_cast<float>(byte - low.zero_point)
                               : static_cast<float>(static_cast<int8_t>(byte));
  }
  int64_t stride;
  Aligned data;
  Floats scale;
};

}  // namespace gruengine::test
