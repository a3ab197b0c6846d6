// SPDX-License-Identifier: MIT
// Activations with their derivatives, from what the forward pass kept.
#pragma once

#include "kernels/base.h"
#include "kernels/functions.h"
#include "kernels/math.h"

GRU_BEGIN_KERNELS

struct Slope {
  Vec value, slope;
};

// The derivative of a function of isa/functions.inc that a recurrent cell may have. At a kink it is
// the one from the right, but zero for Relu.
template <Function F>
GRU_INLINE Vec derivative(Vec x, Vec y, Vec alpha, Vec beta) {
  const Vec zero = splat(0.0f);
  const Vec one = splat(1.0f);
  if constexpr (F == Function::kSigmoid) return y * (one - y);
  if constexpr (F == Function::kTanh) return nfma(y, y, one);
  if constexpr (F == Function::kRelu) return select(less(zero, x), one, zero);
  if constexpr (F == Function::kAffine) return alpha;
  if constexpr (F == Function::kLeakyRelu) return select(less(x, zero), alpha, one);
  if constexpr (F == Function::kThresholdedRelu) return select(less(alpha, x), one, zero);
  if constexpr (F == Function::kScaledTanh) {
    const Vec t = tanh(beta * x);
    return alpha * beta * nfma(t, t, one);
  }
  if constexpr (F == Function::kHardSigmoid) {
    const Vec inside = select(less(zero, y), alpha, zero);
    return select(less(y, one), inside, zero);
  }
  if constexpr (F == Function::kElu) return select(less(x, zero), alpha * exp(x), one);
  if constexpr (F == Function::kSoftsign) {
    const Vec d = one + abs(x);
    return one / (d * d);
  }
  if constexpr (F == Function::kSoftplus) return sigmoid(x);
  return splat(__builtin_nanf(""));
}

GRU_NOINLINE Slope slope_any(const FunctionSpec& spec, Vec x) {
  const Vec alpha = splat(spec.alpha);
  const Vec beta = splat(spec.beta);
  switch (spec.kind) {
#define GRU_FUNCTION(name, onnx_name)                             \
  case Function::k##name: {                                       \
    const Vec y = evaluate<Function::k##name>(x, alpha, beta);    \
    return {y, derivative<Function::k##name>(x, y, alpha, beta)}; \
  }
#include "isa/functions.inc"
#undef GRU_FUNCTION
  }
  return {x, x};
}

// The activations nearly every model has: kept are their values.
struct StandardSlopes {
  const CellParams& params;
  Slope gate(Vec y) const { return {y, nfma(y, y, y)}; }
  Slope candidate(Vec y) const { return {y, nfma(y, y, splat(1.0f))}; }
  Slope output(Vec x) const { return candidate(tanh(x)); }
  static constexpr bool coupled() { return false; }
  bool update_takes() const { return params.update_takes; }
};

// Any activations: kept are their arguments, before the clip.
struct AnySlopes {
  const CellParams& params;
  Slope clipped(const FunctionSpec& spec, Vec x) const {
    if (params.clip == 0.0f) return slope_any(spec, x);
    const Vec bound = splat(params.clip);
    Slope s = slope_any(spec, max(negate(bound), min(bound, x)));
    s.slope = select(less(bound, abs(x)), splat(0.0f), s.slope);
    return s;
  }
  Slope gate(Vec x) const { return clipped(params.f, x); }
  Slope candidate(Vec x) const { return clipped(params.g, x); }
  Slope output(Vec x) const { return slope_any(params.h, x); }
  bool coupled() const { return params.coupled; }
  bool update_takes() const { return params.update_takes; }
};

GRU_END_KERNELS
