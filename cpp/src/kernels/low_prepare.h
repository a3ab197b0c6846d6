// SPDX-License-Identifier: MIT
// Rows of floats brought into the form that products in bfloat16 and int8 read.
#pragma once

#include "isa/low_table.h"
#include "kernels/base.h"
#include "kernels/math.h"
#include "kernels/products.h"

GRU_BEGIN_KERNELS

// Below this the largest value of a row counts as zero: its reciprocal would not be a number.
constexpr float kLeastRow = 1e-30f;

// Calls f(values, i) for whole vectors of k values, zeros behind them, up to `padded`.
template <class F>
GRU_INLINE void each_vector(const float* from, int64_t k, int64_t padded, F f) {
  constexpr int V = Vec::kWidth;
  int64_t i = 0;
  for (; i + V <= k; i += V) f(load(from + i), i);
  for (; i < padded; i += V) {
    f(i < k ? load_first(from + i, static_cast<int>(k - i), 0.0f) : splat(0.0f), i);
  }
}

GRU_INLINE void prepare_int8_row(const float* from, int64_t k, int64_t padded, float range,
                                 uint8_t* to, float* scale) {
  constexpr int V = Vec::kWidth;
  // Four chains each; poison is NaN once a value is not finite.
  Vec most_of[4] = {splat(range), splat(range), splat(range), splat(range)};
  Vec poison_of[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
  const auto look = [&](int chain, Vec x) {
    most_of[chain] = max(most_of[chain], abs(x));
    poison_of[chain] = fma(x, splat(0.0f), poison_of[chain]);
  };
  int64_t done = 0;
  for (; done + 4 * V <= k; done += 4 * V) {
    GRU_UNROLL
    for (int i = 0; i < 4; ++i) look(i, load(from + done + i * V));
  }
  each_vector(from + done, k - done, k - done, [&](Vec x, int64_t) { look(0, x); });
  const Vec largest = max(max(most_of[0], most_of[1]), max(most_of[2], most_of[3]));
  const Vec poison = (poison_of[0] + poison_of[1]) + (poison_of[2] + poison_of[3]);
  const float most = max_of(largest);
  const Vec inverse = splat(most > kLeastRow ? 127.0f / most : 0.0f);
  *scale = most / 127.0f + sum(poison);
  each_vector(from, k, padded, [&](Vec x, int64_t i) { store_bytes(to + i, x * inverse); });
}

static void prepare_int8(const PrepareArgs& args) {
  const int64_t padded = (args.k + 3) / 4 * 4;
  for (int64_t r = 0; r < args.rows; ++r) {
    prepare_int8_row(args.from + r * args.ld, args.k, padded, args.range,
                     static_cast<uint8_t*>(args.to) + r * args.stride, args.scale + r);
  }
}

// What rounding to bfloat16 takes from a value; nothing where that is not finite.
GRU_INLINE Vec low_part(Vec x) {
  const Vec high = round_bfloat16(x);
  return select(less(abs(high), infinity()), x - high, splat(0.0f));
}

// To floats that are bfloat16, since here the products are those of floats.
static void prepare_bfloat16(const PrepareArgs& args) {
  const int64_t padded = (args.k + 1) / 2 * 2;
  for (int64_t r = 0; r < args.rows; ++r) {
    auto* to = reinterpret_cast<float*>(static_cast<uint8_t*>(args.to) + r * args.stride);
    const auto put = [&](float* part, auto value) {
      each_vector(args.from + r * args.ld, args.k, padded, [&](Vec x, int64_t i) {
        store_columns(part + i, round_bfloat16(value(x)), padded - i);
      });
    };
    put(to, [](Vec x) { return x; });
    if (args.terms == 1) continue;
    put(to + padded, [](Vec x) { return low_part(x); });
  }
}

GRU_END_KERNELS
