// SPDX-License-Identifier: MIT
// Eight floats in a ymm register (AVX2 and FMA). Functions mean what vec_scalar.h says.
#pragma once

#include <immintrin.h>

#include "kernels/base.h"

GRU_BEGIN_KERNELS

struct Vec {
  static constexpr int kWidth = 8;
  static constexpr int kRegisters = 16;
  static constexpr int kChains = 8;  // 2 pipes, 4 cycles
  __m256 v;
};

struct Mask {
  __m256 m;
};

GRU_INLINE __m256i first(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

GRU_INLINE Vec splat(float x) { return {_mm256_set1_ps(x)}; }
GRU_INLINE Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
GRU_INLINE Vec load_first(const float* p, int n, float fill) {
  const __m256i m = first(n);
  return {_mm256_blendv_ps(_mm256_set1_ps(fill), _mm256_maskload_ps(p, m), _mm256_castsi256_ps(m))};
}
GRU_INLINE void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
GRU_INLINE void store_first(float* p, Vec a, int n) { _mm256_maskstore_ps(p, first(n), a.v); }

GRU_INLINE Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
GRU_INLINE Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
GRU_INLINE Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
GRU_INLINE Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
GRU_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
GRU_INLINE Vec nfma(Vec a, Vec b, Vec c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
GRU_INLINE Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
GRU_INLINE Vec floor(Vec a) { return {_mm256_floor_ps(a.v)}; }

GRU_INLINE Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
GRU_INLINE Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
GRU_INLINE Vec abs(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
GRU_INLINE Vec copy_sign(Vec magnitude, Vec sign) {
  const __m256 bit = _mm256_set1_ps(-0.0f);
  return {_mm256_or_ps(_mm256_andnot_ps(bit, magnitude.v), _mm256_and_ps(bit, sign.v))};
}

GRU_INLINE Mask less(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
GRU_INLINE Mask is_nan(Vec a) { return {_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)}; }
GRU_INLINE Vec select(Mask m, Vec yes, Vec no) { return {_mm256_blendv_ps(no.v, yes.v, m.m)}; }

GRU_INLINE Vec power_of_two(Vec n) {
  const __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(e, 23))};
}
GRU_INLINE Vec scale(Vec a, Vec n) {
  const Vec half = floor(n * splat(0.5f));
  return a * power_of_two(half) * power_of_two(n - half);
}
GRU_INLINE Vec scale_small(Vec a, Vec n) { return a * power_of_two(n); }
GRU_INLINE Vec split(Vec a, Vec* e) {
  const __m256i bits = _mm256_castps_si256(a.v);
  const __m256i n = _mm256_srai_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f3504f3)), 23);
  *e = {_mm256_cvtepi32_ps(n)};
  return {_mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(n, 23)))};
}
GRU_INLINE Vec reciprocal_estimate(Vec a) { return splat(1.0f) / a; }
GRU_INLINE Vec reciprocal(Vec a) { return splat(1.0f) / a; }

template <class Op>
GRU_INLINE float fold(Vec a, Op op) {
  const __m128 halves = op(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 pairs = op(halves, _mm_movehl_ps(halves, halves));
  return _mm_cvtss_f32(op(pairs, _mm_movehdup_ps(pairs)));
}
GRU_INLINE float sum(Vec a) {
  return fold(a, [](__m128 x, __m128 y) { return _mm_add_ps(x, y); });
}
GRU_INLINE float max_of(Vec a) {
  return fold(a, [](__m128 x, __m128 y) { return _mm_max_ps(x, y); });
}
GRU_INLINE float min_of(Vec a) {
  return fold(a, [](__m128 x, __m128 y) { return _mm_min_ps(x, y); });
}

GRU_END_KERNELS
