// SPDX-License-Identifier: MIT
// Functions of one and two arrays. A tail goes through the same vector code as everything else, so
// the bits of an element don't depend on its place.
#pragma once

#include "kernels/base.h"
#include "kernels/functions.h"

GRU_BEGIN_KERNELS

template <Function F>
static void map_with(const float* x, float* y, int64_t n, float alpha, float beta) {
  constexpr int V = Vec::kWidth;
  const Vec a = splat(alpha);
  const Vec b = splat(beta);
  int64_t i = 0;
  for (; i + V <= n; i += V) store(y + i, evaluate<F>(load(x + i), a, b));
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    store_first(y + i, evaluate<F>(load_first(x + i, rest, 0.0f), a, b), rest);
  }
}

static void map(const FunctionSpec& spec, const float* x, float* y, int64_t n) {
  switch (spec.kind) {
#define GRU_FUNCTION(name, onnx_name) \
  case Function::k##name:             \
    return map_with<Function::k##name>(x, y, n, spec.alpha, spec.beta);
#include "isa/functions.inc"
#undef GRU_FUNCTION
  }
}

template <Binary Op>
GRU_INLINE Vec apply(Vec a, Vec b) {
  if constexpr (Op == Binary::kAdd) return a + b;
  if constexpr (Op == Binary::kSub) return a - b;
  if constexpr (Op == Binary::kMul) return a * b;
  if constexpr (Op == Binary::kDiv) return a / b;
  if constexpr (Op == Binary::kMin) return min_nan(a, b);
  if constexpr (Op == Binary::kMax) return max_nan(a, b);
}

template <Binary Op>
static void combine_with(const float* a, int64_t sa, const float* b, int64_t sb, float* y,
                         int64_t n) {
  constexpr int V = Vec::kWidth;
  if (n <= 0) return;
  const Vec one_a = splat(*a);  // read before y, which may be a or b, is written
  const Vec one_b = splat(*b);
  int64_t i = 0;
  for (; i + V <= n; i += V) {
    store(y + i, apply<Op>(sa != 0 ? load(a + i) : one_a, sb != 0 ? load(b + i) : one_b));
  }
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    const Vec last_a = sa != 0 ? load_first(a + i, rest, 1.0f) : one_a;
    const Vec last_b = sb != 0 ? load_first(b + i, rest, 1.0f) : one_b;
    store_first(y + i, apply<Op>(last_a, last_b), rest);
  }
}

static void combine(Binary op, const float* a, int64_t sa, const float* b, int64_t sb, float* y,
                    int64_t n) {
  switch (op) {
    case Binary::kAdd:
      return combine_with<Binary::kAdd>(a, sa, b, sb, y, n);
    case Binary::kSub:
      return combine_with<Binary::kSub>(a, sa, b, sb, y, n);
    case Binary::kMul:
      return combine_with<Binary::kMul>(a, sa, b, sb, y, n);
    case Binary::kDiv:
      return combine_with<Binary::kDiv>(a, sa, b, sb, y, n);
    case Binary::kMin:
      return combine_with<Binary::kMin>(a, sa, b, sb, y, n);
    case Binary::kMax:
      return combine_with<Binary::kMax>(a, sa, b, sb, y, n);
  }
}

GRU_END_KERNELS
