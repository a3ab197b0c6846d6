// SPDX-License-Identifier: MIT
// Products of bytes with AVX2 alone. Functions mean what dot_scalar.h says.
#pragma once

#include "kernels/dot_ymm.h"

GRU_BEGIN_KERNELS

constexpr int32_t kZeroPoint = 0;

// vpmaddubsw adds pairs with saturation. With the signs moved from the values to the weights no
// pair exceeds 2 * 127 * 127, so nothing saturates.
struct Quad {
  __m256i v;
  __m256i magnitude;
};
GRU_INLINE Quad load_quad(const uint8_t* p) {
  const __m256i a = splat_quad(p);
  return {a, _mm256_abs_epi8(a)};
}
GRU_INLINE Ints dot(Ints sum, const Quad& a, const int8_t* w) {
  const __m256i pairs = _mm256_maddubs_epi16(a.magnitude, _mm256_sign_epi8(load_bytes(w), a.v));
  return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
}
GRU_INLINE void store_bytes(uint8_t* p, Vec x) { store_low_bytes(p, _mm256_cvtps_epi32(x.v)); }

// At most 2 * 15 * 127: no pair saturates.
GRU_INLINE Ints dot_unsigned(Ints sum, const uint8_t* x, __m256i w) {
  const __m256i pairs = _mm256_maddubs_epi16(w, splat_quad(x));
  return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
}

GRU_END_KERNELS
