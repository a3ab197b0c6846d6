// SPDX-License-Identifier: MIT
// Constant right sides of products in the model's compute type.
#pragma once

#include <functional>
#include <string>

#include "engine/op.h"

namespace gruengine {

// A constant matrix of few weights costs nothing in float32 and stays so.
constexpr int64_t kFewWeights = 1024;

// A right side below float32 and memory for rows of the left one; empty where the product stays
// float32.
struct LowRight {
  LowMatrix matrix;
  LowBuffer rows;  // of one thread
  Slot slot = 0;

  bool used() const { return rows.low != nullptr; }
};

// What tells a matrix apart: constant input i, element (row, column) at place(row, column).
struct RightForm {
  size_t input;
  int64_t k, n;
  std::string form;
  std::function<int64_t(int64_t row, int64_t column)> place;
  const LowType* kernels = nullptr;  // instead of those of the compute type
};

// Whether products with k * n weights are below float32. The answer depends on nothing else.
bool is_low(const NodeBuilder& b, int64_t k, int64_t n);

// The matrix, packed once per model, for products of at most m rows.
LowRight low_right(NodeBuilder& b, const RightForm& form, int64_t m);

// The product on the threads of the run, as multiply() in panels.h: `product` names no right side.
void multiply(const Frame& f, const LowRight& right, const GemmArgs& product);

}  // namespace gruengine
