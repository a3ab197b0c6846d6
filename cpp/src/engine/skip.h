// SPDX-License-Identifier: MIT
// When a recurrent cell skips its work (Campos et al., 2018). The state keeps 1 - the accumulated
// probability of an update, so that a state of zeros updates at once:
//   u = [1 - left >= 1/2]     s' = u S(s, x) + (1 - u) s     p = sigmoid(w h' + b)
//   left' = 1 - p after an update, else left - min(p, left)
#pragma once

#include <algorithm>
#include <cstdint>

#include "isa/table.h"

namespace gruengine {

inline bool updates(float left) { return left <= 0.5f; }

// w is [K + 1], its last element the bias; `scratch` holds K floats.
inline float update_probability(const KernelTable& kernels, const float* w, int64_t K,
                                const float* h, float* scratch) {
  float sum = 0;
  kernels.combine(Binary::kMul, w, 1, h, 1, scratch, K);
  kernels.reduce(Reduce::kSum, scratch, 1, K, K, &sum);
  sum += w[K];
  kernels.map({Function::kSigmoid, 0.0f, 0.0f}, &sum, &sum, 1);
  return sum;
}

inline float next_left(bool updated, float p, float left) {
  return updated ? 1.0f - p : left - std::min(p, left);
}

}  // namespace gruengine
