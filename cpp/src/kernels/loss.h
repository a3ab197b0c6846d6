// SPDX-License-Identifier: MIT
// Losses with their gradients.
#pragma once

#include "kernels/base.h"
#include "kernels/rows.h"

GRU_BEGIN_KERNELS

// See training_math.h; a row's gradient is weight * (softmax - one at the target).
static void cross_entropy(const float* x, int64_t rows, int64_t n, const int64_t* target,
                          const float* weight, int64_t ignored, float* losses, float* dx) {
  for (int64_t r = 0; r < rows; ++r, x += n, dx += n) {
    losses[r] = 0.0f;
    if (target[r] == ignored) {
      map_row(x, n, dx, [](Vec, int64_t, int) { return splat(0.0f); });
      continue;
    }
    const float w = weight != nullptr ? weight[r] : 1.0f;
    const float highest = max_row(x, n);
    const Vec top = splat(highest);
    const float own = x[target[r]] - highest;
    map_row(x, n, dx, [&](Vec v, int64_t, int) { return exp(v - top); });
    const float total = sum_row(dx, n, [](Vec v, int64_t) { return v; });
    alignas(64) float lanes[Vec::kWidth];
    store(lanes, log(splat(total)));
    losses[r] = w * (lanes[0] - own);
    const Vec part = splat(w / total);
    map_row(dx, n, dx, [&](Vec v, int64_t, int) { return v * part; });
    dx[target[r]] -= w;
  }
}

GRU_END_KERNELS
