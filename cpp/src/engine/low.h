// SPDX-License-Identifier: MIT
// Weights and rows of products below float32 (isa/low_table.h): packing, and memory for rows.
#pragma once

#include <bit>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "gruengine/model.h"
#include "isa/low_table.h"

namespace gruengine {

// Sums of int8 products of more rows could leave 32 bits: such products stay float32.
constexpr int64_t kMostLowRows = 65536;

// Where the weight of (row, column) of a matrix lies; nullptr stands for zero.
using WeightAt = std::function<const float*(int64_t row, int64_t column)>;

// A matrix in blocks of a compute type below float32.
struct LowMatrix {
  const char* data = nullptr;
  int64_t k = 0;  // rows of all parts
  int64_t n = 0;
  int32_t nv = 0;
  int64_t block_stride = 0;  // bytes
};

// The kernels of a compute type. In bf16x3 rows and weights are sums of two bfloat16 values, high
// and low, and three of their products count (terms = 3 in isa/low_table.h).
struct LowType : LowKernels {
  int32_t terms = 1;

  // Values of a prepared row, and rows of a block.
  int64_t depth(int64_t k) const { return terms == 1 ? k : 2 * padded_rows(*this, k); }
};

// Nothing for float32.
std::optional<LowType> low_type(const KernelTable& table, ComputeType type);
// That of convolutions, which lose too much in int8 and are made in bfloat16 there.
std::optional<LowType> low_type_of_convolutions(const KernelTable& table, ComputeType type);

// To nearest, ties to even; NaN stays NaN.
inline uint16_t bfloat16_bits(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  if (x != x) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// The largest |value|; NaN when one is not finite.
float largest(const float* values, int64_t n);

// The scale of int8 weights of which `most` is the largest: a little more than most / 127, with so
// few bits that every weight is a float exactly. Quantising again what they stand for changes
// nothing.
float weight_scale(float most);

// The same of a section of int4 weights: the bfloat16 not below most / 7.
float int4_scale(float most);

// Bytes of a matrix whose blocks hold a block for each part of the rows, one after another.
int64_t low_bytes(const LowType& low, const std::vector<int64_t>& parts, int64_t n, int width);

// Writes that matrix to `to`, zeroed memory. Weights of int8 have a scale for each column and part.
void pack_low(const LowType& low, const std::vector<int64_t>& parts, int64_t n, int32_t nv,
              int width, const WeightAt& at, char* to);

// Memory for prepared rows of k values: the rows, then their scales.
struct LowBuffer {
  const LowType* low = nullptr;
  int64_t rows = 0, k = 0;

  int64_t stride() const { return prepared_stride(*low, low->depth(k)); }
  int64_t bytes() const {
    if (low == nullptr) return 0;
    return rows * stride() + (rows * int64_t{sizeof(float)} + 63) / 64 * 64;
  }
  // Prepares `count` rows into memory at `to` and returns them.
  LowRows prepare(const float* from, int64_t ld, int64_t count, char* to) const;
};

}  // namespace gruengine
