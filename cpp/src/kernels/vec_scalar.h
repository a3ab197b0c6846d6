// SPDX-License-Identifier: MIT
// One float: the plain baseline, and the description of what every vec_*.h offers.
//
// `fma` here rounds twice, since the baseline CPU has no such instruction: a number computed on the
// scalar set is one number within itself, and may differ from other sets in the last bits.
#pragma once

#include "kernels/base.h"

GRU_BEGIN_KERNELS

struct Vec {
  static constexpr int kWidth = 1;
  static constexpr int kRegisters = 16;
  static constexpr int kChains = 8;  // independent sums that keep the pipes busy
  float v;
};

struct Mask {
  bool m;
};

GRU_INLINE int32_t bits_of(float x) { return __builtin_bit_cast(int32_t, x); }
GRU_INLINE float of_bits(int32_t x) { return __builtin_bit_cast(float, x); }

// Memory. The _first forms touch only the first n elements, 1 <= n <= kWidth.
GRU_INLINE Vec splat(float x) { return {x}; }
GRU_INLINE Vec load(const float* p) { return {*p}; }
GRU_INLINE Vec load_first(const float* p, int, float) { return {*p}; }
GRU_INLINE void store(float* p, Vec a) { *p = a.v; }
GRU_INLINE void store_first(float* p, Vec a, int) { *p = a.v; }

// Arithmetic. fma: a * b + c; nfma: c - a * b.
GRU_INLINE Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
GRU_INLINE Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
GRU_INLINE Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
GRU_INLINE Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
GRU_INLINE Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
GRU_INLINE Vec nfma(Vec a, Vec b, Vec c) { return {c.v - a.v * b.v}; }
GRU_INLINE Vec sqrt(Vec a) { return {__builtin_sqrtf(a.v)}; }
GRU_INLINE Vec floor(Vec a) {
  // At 2^23 and above (and for inf and NaN) a float has no fraction.
  if (!(__builtin_fabsf(a.v) < 8388608.0f)) return a;
  const float t = static_cast<float>(static_cast<int32_t>(a.v));
  return {__builtin_copysignf(t > a.v ? t - 1.0f : t, a.v)};
}

// Order. When either is NaN, min and max return b or NaN: a NaN in b is never lost.
GRU_INLINE Vec min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
GRU_INLINE Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
GRU_INLINE Vec abs(Vec a) { return {__builtin_fabsf(a.v)}; }
GRU_INLINE Vec copy_sign(Vec magnitude, Vec sign) {
  return {__builtin_copysignf(magnitude.v, sign.v)};
}
GRU_INLINE Mask less(Vec a, Vec b) { return {a.v < b.v}; }
GRU_INLINE Mask is_nan(Vec a) { return {a.v != a.v}; }
GRU_INLINE Vec select(Mask m, Vec yes, Vec no) { return m.m ? yes : no; }

// Exponents. scale: a * 2^n for integral |n| <= 250; scale_small: the same where n and the result
// stay within normal numbers. split: a = m * 2^e with m in [sqrt(1/2), sqrt(2)), a normal.
GRU_INLINE Vec power_of_two(Vec n) { return {of_bits((static_cast<int32_t>(n.v) + 127) << 23)}; }
GRU_INLINE Vec scale(Vec a, Vec n) {
  const Vec half = floor(n * splat(0.5f));
  return a * power_of_two(half) * power_of_two(n - half);
}
GRU_INLINE Vec scale_small(Vec a, Vec n) { return a * power_of_two(n); }
GRU_INLINE Vec split(Vec a, Vec* e) {
  const int32_t n = (bits_of(a.v) - 0x3f3504f3) >> 23;
  *e = {static_cast<float>(n)};
  return {of_bits(static_cast<int32_t>(static_cast<uint32_t>(bits_of(a.v)) -
                                       (static_cast<uint32_t>(n) << 23)))};
}

// 1 / a within 1 ulp for normal a and result; the estimate within 2^-14.
GRU_INLINE Vec reciprocal_estimate(Vec a) { return {1.0f / a.v}; }
GRU_INLINE Vec reciprocal(Vec a) { return {1.0f / a.v}; }

// Over the lanes, in an order that is always the same.
GRU_INLINE float sum(Vec a) { return a.v; }
GRU_INLINE float max_of(Vec a) { return a.v; }
GRU_INLINE float min_of(Vec a) { return a.v; }

GRU_END_KERNELS
