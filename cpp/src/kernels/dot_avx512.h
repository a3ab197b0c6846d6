// SPDX-License-Identifier: MIT
// Products of bytes with AVX-512 BW alone. Functions mean what dot_scalar.h says.
#pragma once

#include "kernels/dot_zmm.h"

GRU_BEGIN_KERNELS

constexpr int32_t kZeroPoint = 0;

// vpmaddubsw adds pairs with saturation. With the signs moved from the values to the weights no
// pair exceeds 2 * 127 * 127, so nothing saturates.
struct Quad {
  __m512i magnitude;
  __mmask64 negative;
};
GRU_INLINE Quad load_quad(const uint8_t* p) {
  const __m512i a = splat_quad(p);
  return {_mm512_abs_epi8(a), _mm512_movepi8_mask(a)};
}
GRU_INLINE Ints dot(Ints sum, const Quad& a, const int8_t* w) {
  const __m512i b = _mm512_loadu_si512(w);
  const __m512i turned = _mm512_mask_sub_epi8(b, a.negative, _mm512_setzero_si512(), b);
  const __m512i pairs = _mm512_maddubs_epi16(a.magnitude, turned);
  return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
}
GRU_INLINE void store_bytes(uint8_t* p, Vec x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x.v)));
}

// At most 2 * 15 * 127: no pair saturates.
GRU_INLINE Ints dot_unsigned(Ints sum, const uint8_t* x, __m512i w) {
  const __m512i pairs = _mm512_maddubs_epi16(w, splat_quad(x));
  return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
}

GRU_END_KERNELS
