// SPDX-License-Identifier: MIT
// The functions of isa/functions.inc on Vec, by template and by run-time choice.
#pragma once

#include "kernels/base.h"
#include "kernels/math.h"

GRU_BEGIN_KERNELS

template <Function F>
GRU_INLINE Vec evaluate(Vec x, Vec alpha, Vec beta) {
  const Vec zero = splat(0.0f);
  const Vec one = splat(1.0f);
  if constexpr (F == Function::kSigmoid) return sigmoid(x);
  if constexpr (F == Function::kTanh) return tanh(x);
  if constexpr (F == Function::kRelu) return max(zero, x);
  if constexpr (F == Function::kAffine) return fma(alpha, x, beta);
  if constexpr (F == Function::kLeakyRelu) return select(less(x, zero), alpha * x, x);
  if constexpr (F == Function::kThresholdedRelu) {
    return select(less(alpha, x), x, select(is_nan(x), x, zero));
  }
  if constexpr (F == Function::kScaledTanh) return alpha * tanh(beta * x);
  if constexpr (F == Function::kHardSigmoid) return max(zero, min(one, fma(alpha, x, beta)));
  if constexpr (F == Function::kElu) return select(less(x, zero), alpha * expm1(x), x);
  if constexpr (F == Function::kSoftsign) {
    const Vec y = x / (one + abs(x));
    return select(less(abs(x), infinity()), y, select(is_nan(x), x, copy_sign(one, x)));
  }
  if constexpr (F == Function::kSoftplus) return softplus(x);
  if constexpr (F == Function::kNeg) return negate(x);
  if constexpr (F == Function::kAbs) return abs(x);
  if constexpr (F == Function::kSqrt) return sqrt(x);
  if constexpr (F == Function::kExp) return exp(x);
  if constexpr (F == Function::kLog) return log(x);
  if constexpr (F == Function::kReciprocal) return one / x;
  if constexpr (F == Function::kSquare) return x * x;
  if constexpr (F == Function::kErf) return erf(x);
  if constexpr (F == Function::kFloor) return floor(x);
  if constexpr (F == Function::kCeil) return negate(floor(negate(x)));
}

// One vector by run-time choice: what cells with other than the standard activations pay.
GRU_NOINLINE Vec evaluate_any(const FunctionSpec& spec, Vec x) {
  const Vec alpha = splat(spec.alpha);
  const Vec beta = splat(spec.beta);
  switch (spec.kind) {
#define GRU_FUNCTION(name, onnx_name) \
  case Function::k##name:             \
    return evaluate<Function::k##name>(x, alpha, beta);
#include "isa/functions.inc"
#undef GRU_FUNCTION
  }
  return x;
}

GRU_END_KERNELS
