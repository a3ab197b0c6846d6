// SPDX-License-Identifier: MIT
// Elementary functions on Vec.
//
// Errors are against the exact value, in units of the last place of the result, over all finite
// floats whose result is normal; test_kernels.cpp enforces them. A result below the smallest normal
// number may be zero, and a subnormal argument of log counts as zero. NaN gives NaN.
// Polynomials are minimax fits made for the ranges stated, in float64, with the coefficients
// rounded to floats one by one from the lowest power up and the rest fitted again.
#pragma once

#include "kernels/base.h"
#include "kernels/many.h"

GRU_BEGIN_KERNELS

constexpr float kLog2E = 1.44269504f;
constexpr float kLn2High = 0.693359375f;  // ten bits: n * kLn2High is exact
constexpr float kLn2Low = -2.12194440e-4f;
constexpr float kRoundMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
constexpr float kSmallestNormal = 1.17549435e-38f;

GRU_INLINE Vec negate(Vec x) { return splat(-0.0f) - x; }
GRU_INLINE Vec infinity() { return splat(__builtin_inff()); }

// (e^(Sign r) - 1) / (Sign r) for |r| <= ln(2) / 2; error of e^r 2^-28 before rounding.
template <int Sign = 1, class V>
GRU_INLINE V exp_slope(const V& r) {
  V p = fma(splat(Sign * 1.382007962e-3f), r, splat(8.368683979e-3f));
  p = fma(p, r, splat(Sign * 4.166827351e-2f));
  p = fma(p, r, splat(1.666652113e-1f));
  p = fma(p, r, splat(Sign * 4.999999404e-1f));
  return fma(p, r, splat(1.0f));
}

// Sign * x = n ln(2) + Sign * r with integral n and |r| <= ln(2) / 2, a little more at the largest
// x.
template <int Sign = 1, class V>
GRU_INLINE V reduce_exp(const V& x, V* n) {
  *n = fma(x, splat(Sign * kLog2E), splat(kRoundMagic)) - splat(kRoundMagic);
  return nfma(*n, splat(Sign * kLn2Low), nfma(*n, splat(Sign * kLn2High), x));
}

// e^(Sign * x) without checks: the result and its reciprocal must be normal.
template <int Sign = 1, class V>
GRU_INLINE V exp_small(const V& x) {
  V n;
  const V r = reduce_exp<Sign>(x, &n);
  const Vec one = splat(1.0f);
  const V slope = exp_slope<Sign>(r);
  return scale_small(Sign > 0 ? fma(slope, r, one) : nfma(slope, r, one), n);
}

// 1.2 ulp.
GRU_INLINE Vec exp(Vec x) {
  Vec n;
  const Vec r = reduce_exp(max(splat(-104.0f), min(splat(89.0f), x)), &n);
  return scale(fma(exp_slope(r), r, splat(1.0f)), n);
}

#if defined(GRU_HAVE_LOOKUP)
GRU_END_KERNELS
#include "kernels/tables.h"
GRU_BEGIN_KERNELS
#else
// 1.5 ulp. Below 0.625 an odd polynomial (2^-27.8), above 1 - 2 / (e^2x + 1).
template <class V>
GRU_INLINE V tanh(const V& x) {
  const V z = x * x;
  V p = fma(splat(-5.714063533e-3f), z, splat(2.064806223e-2f));
  p = fma(p, z, splat(-5.374277383e-2f));
  p = fma(p, z, splat(1.333148330e-1f));
  p = fma(p, z, splat(-3.333328366e-1f));
  const V small = fma(p, x * z, x);
  const V a = abs(x);
  const V b = min(splat(10.0f), a);
  const V big = nfma(splat(2.0f), reciprocal(exp_small(b + b) + splat(1.0f)), splat(1.0f));
  return select(less(a, splat(0.625f)), small, copy_sign(big, x));
}
#endif

// 2 ulp, 2.1 where fma rounds twice. Below -87.34, where the exact result is subnormal, it is zero
// when subnormals are flushed.
template <class V>
GRU_INLINE V sigmoid(const V& x) {
  const V e = exp_small<-1>(max(splat(-88.0f), min(splat(87.0f), x)));
  // One step of Newton on 1 / (1 + e) that never rounds 1 + e: y + y ((1 - y) - e y).
  const V y = reciprocal_estimate(splat(1.0f) + e);
  return fma(y, nfma(e, y, splat(1.0f) - y), y);
}

// e^x - 1. 2 ulp.
GRU_INLINE Vec expm1(Vec x) {
  Vec n;
  const Vec r = reduce_exp(max(splat(-20.0f), min(splat(89.0f), x)), &n);
  const Vec low = exp_slope(r) * r;
  // At n = 128 the power alone would overflow, so both terms are taken at n - 1 and doubled.
  const Vec power = scale_small(splat(1.0f), n - splat(1.0f));
  const Vec half = fma(low, power, power - splat(0.5f));
  return half + half;
}

// log(1 + f) - f for f in [sqrt(1/2) - 1, sqrt(2) - 1]; error of the logarithm 2^-27.
GRU_INLINE Vec log_tail(Vec f) {
  const Vec z = f * f;
  Vec q = splat(-7.636439055e-2f);
  q = fma(q, f, splat(1.276221722e-1f));
  q = fma(q, f, splat(-1.315961033e-1f));
  q = fma(q, f, splat(1.420157999e-1f));
  q = fma(q, f, splat(-1.662340909e-1f));
  q = fma(q, f, splat(2.000124156e-1f));
  q = fma(q, f, splat(-2.500081956e-1f));
  q = fma(q, f, splat(3.333333135e-1f));
  return nfma(splat(0.5f), z, q * (f * z));
}

// log(m 2^e) + correction for m = 1 + f.
GRU_INLINE Vec log_parts(Vec f, Vec e, Vec correction) {
  const Vec low = fma(e, splat(kLn2Low), log_tail(f)) + correction;
  return fma(e, splat(kLn2High), f + low);
}

// 2 ulp. log of a negative number is NaN, of zero -inf.
GRU_INLINE Vec log(Vec x) {
  Vec e;
  const Vec m = split(x, &e);
  Vec y = log_parts(m - splat(1.0f), e, splat(0.0f));
  y = select(less(x, infinity()), y, x);  // inf and NaN are their own logarithm
  y = select(less(x, splat(kSmallestNormal)), negate(infinity()), y);
  return select(less(x, splat(0.0f)), splat(__builtin_nanf("")), y);
}

// log(1 + e^x). 2 ulp.
GRU_INLINE Vec softplus(Vec x) {
  const Vec t = exp(negate(abs(x)));
  const Vec u = splat(1.0f) + t;
  Vec e;
  const Vec m = split(u, &e);
  // What rounding u lost is put back to first order.
  const Vec lost = (t - (u - splat(1.0f))) / u;
  return max(splat(0.0f), x) + log_parts(m - splat(1.0f), e, lost);
}

// 2 ulp. Below 0.9 x * polynomial in x^2 (2^-30), above 1 - exp(polynomial in x) (2^-33).
GRU_INLINE Vec erf(Vec x) {
  const Vec z = x * x;
  Vec p = splat(7.943100354e-5f);
  p = fma(p, z, splat(-8.039752720e-4f));
  p = fma(p, z, splat(5.191753153e-3f));
  p = fma(p, z, splat(-2.685556002e-2f));
  p = fma(p, z, splat(1.128362417e-1f));
  p = fma(p, z, splat(-3.761262894e-1f));
  p = fma(p, z, splat(1.283791661e-1f));
  const Vec small = fma(p, x, x);
  const Vec a = abs(x);
  const Vec b = min(splat(4.0f), a);
  Vec q = splat(-2.052657510e-5f);
  q = fma(q, b, splat(4.279447894e-4f));
  q = fma(q, b, splat(-4.139779601e-3f));
  q = fma(q, b, splat(2.503791265e-2f));
  q = fma(q, b, splat(-1.081554815e-1f));
  q = fma(q, b, splat(-6.334587336e-1f));
  q = fma(q, b, splat(-1.129460335e+0f));
  q = fma(q, b, splat(1.634890505e-4f));
  const Vec big = splat(1.0f) - exp_small(q);
  return select(less(a, splat(0.9f)), small, copy_sign(big, x));
}

// A NaN in either argument is kept.
GRU_INLINE Vec min_nan(Vec a, Vec b) { return select(is_nan(a), a, min(a, b)); }
GRU_INLINE Vec max_nan(Vec a, Vec b) { return select(is_nan(a), a, max(a, b)); }

GRU_END_KERNELS
