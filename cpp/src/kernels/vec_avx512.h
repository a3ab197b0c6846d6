// SPDX-License-Identifier: MIT
// Sixteen floats in a zmm register (AVX-512 F, BW, DQ, VL). Functions mean what vec_scalar.h says.
#pragma once

#include <immintrin.h>

#include "kernels/base.h"

GRU_BEGIN_KERNELS

struct Vec {
  static constexpr int kWidth = 16;
  static constexpr int kRegisters = 32;
  static constexpr int kChains = 8;  // 2 pipes, 4 cycles
  __m512 v;
};

struct Mask {
  __mmask16 m;
};

GRU_INLINE __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

GRU_INLINE Vec splat(float x) { return {_mm512_set1_ps(x)}; }
GRU_INLINE Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
GRU_INLINE Vec load_first(const float* p, int n, float fill) {
  return {_mm512_mask_loadu_ps(_mm512_set1_ps(fill), first(n), p)};
}
GRU_INLINE void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
GRU_INLINE void store_first(float* p, Vec a, int n) { _mm512_mask_storeu_ps(p, first(n), a.v); }

GRU_INLINE Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
GRU_INLINE Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
GRU_INLINE Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
GRU_INLINE Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
GRU_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
GRU_INLINE Vec nfma(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
GRU_INLINE Vec sqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
GRU_INLINE Vec floor(Vec a) { return {_mm512_roundscale_ps(a.v, 0x09)}; }

GRU_INLINE Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
GRU_INLINE Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
GRU_INLINE Vec abs(Vec a) { return {_mm512_abs_ps(a.v)}; }
GRU_INLINE Vec copy_sign(Vec magnitude, Vec sign) {
  const __m512i bit = _mm512_set1_epi32(INT32_MIN);
  return {_mm512_castsi512_ps(_mm512_ternarylogic_epi32(bit, _mm512_castps_si512(sign.v),
                                                        _mm512_castps_si512(magnitude.v), 0xCA))};
}

GRU_INLINE Mask less(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
GRU_INLINE Mask is_nan(Vec a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
GRU_INLINE Vec select(Mask m, Vec yes, Vec no) { return {_mm512_mask_blend_ps(m.m, no.v, yes.v)}; }

GRU_INLINE Vec scale(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }
GRU_INLINE Vec scale_small(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }
GRU_INLINE Vec split(Vec a, Vec* e) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i n = _mm512_srai_epi32(_mm512_sub_epi32(bits, _mm512_set1_epi32(0x3f3504f3)), 23);
  *e = {_mm512_cvtepi32_ps(n)};
  return {_mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(n, 23)))};
}
GRU_INLINE Vec reciprocal_estimate(Vec a) { return {_mm512_rcp14_ps(a.v)}; }
GRU_INLINE Vec reciprocal(Vec a) {
  const Vec y = {_mm512_rcp14_ps(a.v)};
  return fma(y, nfma(a, y, splat(1.0f)), y);
}

// Elements of a table by the lowest five bits of each lane.
#define GRU_HAVE_LOOKUP 1
GRU_INLINE Vec lookup32(const float* table, Vec at) {
  return {_mm512_permutex2var_ps(_mm512_load_ps(table), _mm512_castps_si512(at.v),
                                 _mm512_load_ps(table + 16))};
}
template <int N>
GRU_INLINE Vec shift_right(Vec a) {
  return {_mm512_castsi512_ps(_mm512_srli_epi32(_mm512_castps_si512(a.v), N))};
}

GRU_INLINE float sum(Vec a) { return _mm512_reduce_add_ps(a.v); }
GRU_INLINE float max_of(Vec a) { return _mm512_reduce_max_ps(a.v); }
GRU_INLINE float min_of(Vec a) { return _mm512_reduce_min_ps(a.v); }

GRU_END_KERNELS
