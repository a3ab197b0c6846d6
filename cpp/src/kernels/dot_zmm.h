// SPDX-License-Identifier: MIT
// What the dot_avx512*.h share. Functions mean what dot_scalar.h says.
#pragma once

#include <immintrin.h>

#include "kernels/base.h"

GRU_BEGIN_KERNELS

struct Ints {
  __m512i v;
};
GRU_INLINE Ints load_ints(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
GRU_INLINE Vec to_float(Ints a) { return {_mm512_cvtepi32_ps(a.v)}; }

GRU_INLINE __m512i splat_quad(const uint8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, sizeof(four));
  return _mm512_set1_epi32(four);
}

GRU_INLINE Vec even(const uint16_t* w) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(w), 16))};
}
GRU_INLINE Vec odd(const uint16_t* w) {
  const __m512i high = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u));
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(w), high))};
}
GRU_INLINE __m512i rounded_bits(Vec x) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i last = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i near = _mm512_add_epi32(bits, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff)));
  return _mm512_mask_or_epi32(near, is_nan(x).m, bits, _mm512_set1_epi32(0x400000));
}
GRU_INLINE Vec round_bfloat16(Vec x) {
  const __m512i high = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u));
  return {_mm512_castsi512_ps(_mm512_and_si512(rounded_bits(x), high))};
}

GRU_INLINE Ints splat_ints(int32_t a) { return {_mm512_set1_epi32(a)}; }
GRU_INLINE Ints plus(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
struct Nibbles {
  __m512i low, high;
};
GRU_INLINE Nibbles load_nibbles(const uint8_t* w) {
  const __m512i both = _mm512_loadu_si512(w);
  const __m512i mask = _mm512_set1_epi8(15);
  return {_mm512_and_si512(both, mask), _mm512_and_si512(_mm512_srli_epi16(both, 4), mask)};
}
GRU_INLINE Vec load_bfloat16(const uint8_t* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}

GRU_END_KERNELS
