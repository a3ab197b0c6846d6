// SPDX-License-Identifier: MIT
// Products of bytes with AVX-512 VNNI. Functions mean what dot_scalar.h says.
#pragma once

#include "kernels/dot_zmm.h"

GRU_BEGIN_KERNELS

constexpr int32_t kZeroPoint = 128;  // vpdpbusd takes one side unsigned

struct Quad {
  __m512i v;
};
GRU_INLINE Quad load_quad(const uint8_t* p) { return {splat_quad(p)}; }
GRU_INLINE Ints dot(Ints sum, const Quad& a, const int8_t* w) {
  return {_mm512_dpbusd_epi32(sum.v, a.v, _mm512_loadu_si512(w))};
}
GRU_INLINE void store_bytes(uint8_t* p, Vec x) {
  const __m512i near = _mm512_add_epi32(_mm512_cvtps_epi32(x.v), _mm512_set1_epi32(kZeroPoint));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(near));
}

GRU_INLINE Ints dot_unsigned(Ints sum, const uint8_t* x, __m512i w) {
  return {_mm512_dpbusd_epi32(sum.v, w, splat_quad(x))};
}

GRU_END_KERNELS
