// SPDX-License-Identifier: MIT
// Reductions, softmax and layer normalisation over rows. Sums run in four vectors side by side and
// are joined in a fixed order, so a sum depends on the row and its length alone.
#pragma once

#include "kernels/base.h"
#include "kernels/math.h"

GRU_BEGIN_KERNELS

// Folds `term(vector, index)` of all vectors of a row with `join`, from `zero` in every lane.
template <class Term, class Join>
GRU_INLINE Vec fold_row(const float* x, int64_t n, float fill, Vec zero, Term term, Join join) {
  constexpr int V = Vec::kWidth;
  Vec part[4] = {zero, zero, zero, zero};
  int64_t i = 0;
  for (; i + 4 * V <= n; i += 4 * V) {
    GRU_UNROLL
    for (int j = 0; j < 4; ++j) part[j] = join(part[j], term(load(x + i + j * V), i + j * V));
  }
  for (; i + V <= n; i += V) part[0] = join(part[0], term(load(x + i), i));
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    // Lanes past the end must not count whatever `term` makes of the fill.
    alignas(64) float lanes[V];
    store(lanes, zero);
    store_first(lanes, term(load_first(x + i, rest, fill), i), rest);
    part[1] = join(part[1], load(lanes));
  }
  return join(join(part[0], part[1]), join(part[2], part[3]));
}

GRU_INLINE Vec add(Vec a, Vec b) { return a + b; }

template <class Term>
GRU_INLINE float sum_row(const float* x, int64_t n, Term term) {
  return sum(fold_row(x, n, 0.0f, splat(0.0f), term, add));
}

// A NaN anywhere gives NaN: the last join sees it because the lanes are joined with the row's own
// NaN mark instead of the lane order of max_of.
GRU_INLINE float max_row(const float* x, int64_t n) {
  const Vec m =
      fold_row(x, n, 0.0f, splat(-__builtin_inff()), [](Vec v, int64_t) { return v; }, max_nan);
  const float marked = sum(select(is_nan(m), m, splat(0.0f)));
  return marked != marked ? marked : max_of(m);
}
GRU_INLINE float min_row(const float* x, int64_t n) {
  const Vec m =
      fold_row(x, n, 0.0f, splat(__builtin_inff()), [](Vec v, int64_t) { return v; }, min_nan);
  const float marked = sum(select(is_nan(m), m, splat(0.0f)));
  return marked != marked ? marked : min_of(m);
}

GRU_INLINE float reduce_row(Reduce op, const float* x, int64_t n) {
  const auto same = [](Vec v, int64_t) { return v; };
  switch (op) {
    case Reduce::kSum:
      return sum_row(x, n, same);
    case Reduce::kMean:
      return sum_row(x, n, same) / static_cast<float>(n);
    case Reduce::kMax:
      return max_row(x, n);
    case Reduce::kMin:
      return min_row(x, n);
    case Reduce::kSumSquare:
      return sum_row(x, n, [](Vec v, int64_t) { return v * v; });
  }
  return 0.0f;
}

static void reduce(Reduce op, const float* x, int64_t rows, int64_t n, int64_t ld, float* y) {
  for (int64_t r = 0; r < rows; ++r) y[r] = reduce_row(op, x + r * ld, n);
}

// y[i] = f(x[i], i) over a row.
template <class F>
GRU_INLINE void map_row(const float* x, int64_t n, float* y, F f) {
  constexpr int V = Vec::kWidth;
  int64_t i = 0;
  for (; i + V <= n; i += V) store(y + i, f(load(x + i), i, V));
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    store_first(y + i, f(load_first(x + i, rest, 0.0f), i, rest), rest);
  }
}

static void softmax(const float* x, int64_t rows, int64_t n, bool logarithm, float* y) {
  for (int64_t r = 0; r < rows; ++r) {
    const Vec top = splat(max_row(x, n));
    if (logarithm) {
      const float total = sum_row(x, n, [&](Vec v, int64_t) { return exp(v - top); });
      alignas(64) float lanes[Vec::kWidth];
      store(lanes, log(splat(total)));
      const Vec shift = splat(lanes[0]);
      map_row(x, n, y, [&](Vec v, int64_t, int) { return (v - top) - shift; });
    } else {
      map_row(x, n, y, [&](Vec v, int64_t, int) { return exp(v - top); });
      const Vec total = splat(sum_row(y, n, [](Vec v, int64_t) { return v; }));
      map_row(y, n, y, [&](Vec v, int64_t, int) { return v / total; });
    }
    x += n;
    y += n;
  }
}

static void layer_norm(const float* x, int64_t rows, int64_t n, const float* scale,
                       const float* shift, float eps, float* y) {
  const float count = static_cast<float>(n);
  for (int64_t r = 0; r < rows; ++r) {
    const Vec mean = splat(sum_row(x, n, [](Vec v, int64_t) { return v; }) / count);
    const float variance = sum_row(x, n,
                                   [&](Vec v, int64_t) {
                                     const Vec d = v - mean;
                                     return d * d;
                                   }) /
                           count;
    const Vec deviation = sqrt(splat(variance + eps));
    map_row(x, n, y, [&](Vec v, int64_t i, int count_here) {
      const auto part = [&](const float* p) {
        return count_here == Vec::kWidth ? load(p + i) : load_first(p + i, count_here, 0.0f);
      };
      const Vec normal = (v - mean) / deviation * part(scale);
      return shift != nullptr ? normal + part(shift) : normal;
    });
    x += n;
    y += n;
  }
}

GRU_END_KERNELS
