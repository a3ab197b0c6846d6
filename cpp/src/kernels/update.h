// SPDX-License-Identifier: MIT
// Parameter updates. Each element is independent of all others.
#pragma once

#include "isa/train_table.h"
#include "kernels/base.h"
#include "kernels/gemm.h"
#include "kernels/math.h"

GRU_BEGIN_KERNELS

// SGD with momentum: m = beta1 m + beta2 g, w -= rate m; Nesterov: w -= rate (g + beta1 m).
struct SgdRule {
  static Vec apply(const UpdateArgs& a, Vec w, Vec g, Vec& m, Vec&) {
    if (a.m == nullptr) return nfma(splat(a.rate), g, w);
    m = fma(splat(a.beta1), m, splat(a.beta2) * g);
    return nfma(splat(a.rate), a.nesterov ? fma(splat(a.beta1), m, g) : m, w);
  }
};

// RMSprop (Tieleman & Hinton, 2012): v = beta2 v + (1 - beta2) g^2, step g / (sqrt(v) + eps).
struct RmspropRule {
  static Vec apply(const UpdateArgs& a, Vec w, Vec g, Vec& m, Vec& v) {
    v = fma(splat(a.rest2) * g, g, splat(a.beta2) * v);
    const Vec step = g / (sqrt(v) + splat(a.eps));
    if (a.m == nullptr) return nfma(splat(a.rate), step, w);
    m = fma(splat(a.beta1), m, step);
    return nfma(splat(a.rate), m, w);
  }
};

// Adam (Kingma & Ba, 2015), eps outside the root.
struct AdamRule {
  static Vec apply(const UpdateArgs& a, Vec w, Vec g, Vec& m, Vec& v) {
    m = fma(splat(a.beta1), g - m, m);
    v = fma(splat(a.rest2) * g, g, splat(a.beta2) * v);
    const Vec step = m / fma(sqrt(v), splat(a.correction), splat(a.eps));
    return nfma(splat(a.rate), step, w);
  }
};

template <class Rule>
static void update(const UpdateArgs& args) {
  const bool by_gradient = args.decay != 0.0f && !args.decoupled;
  const Vec kept = splat(args.decoupled ? 1.0f - args.decay : 1.0f);
  for (int64_t i = 0; i < args.n; i += Vec::kWidth) {
    const int64_t left = args.n - i;
    Vec w = load_columns(args.w + i, left);
    Vec g = load_columns(args.g + i, left) * splat(args.scale);
    if (by_gradient) g = fma(splat(args.decay), w, g);
    w = w * kept;
    Vec m = args.m != nullptr ? load_columns(args.m + i, left) : splat(0.0f);
    Vec v = args.v != nullptr ? load_columns(args.v + i, left) : splat(0.0f);
    w = Rule::apply(args, w, g, m, v);
    store_columns(args.w + i, w, left);
    if (args.m != nullptr) store_columns(args.m + i, m, left);
    if (args.v != nullptr) store_columns(args.v + i, v, left);
  }
}

GRU_END_KERNELS
