// SPDX-License-Identifier: MIT
// What the dot_avx2*.h share. Functions mean what dot_scalar.h says.
#pragma once

#include <immintrin.h>

#include "kernels/base.h"

GRU_BEGIN_KERNELS

struct Ints {
  __m256i v;
};
GRU_INLINE Ints load_ints(const int32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
GRU_INLINE Vec to_float(Ints a) { return {_mm256_cvtepi32_ps(a.v)}; }

GRU_INLINE __m256i splat_quad(const uint8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, sizeof(four));
  return _mm256_set1_epi32(four);
}
GRU_INLINE __m256i load_bytes(const int8_t* w) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
}
// The lowest byte of each lane.
GRU_INLINE void store_low_bytes(uint8_t* p, __m256i a) {
  const __m256i pick =
      _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1,
                       -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i picked = _mm256_shuffle_epi8(a, pick);
  const __m128i both =
      _mm_unpacklo_epi32(_mm256_castsi256_si128(picked), _mm256_extracti128_si256(picked, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), both);
}

GRU_INLINE __m256i load_pairs(const uint16_t* w) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
}
GRU_INLINE Vec even(const uint16_t* w) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(load_pairs(w), 16))};
}
GRU_INLINE Vec odd(const uint16_t* w) {
  const __m256i high = _mm256_set1_epi32(static_cast<int32_t>(0xffff0000u));
  return {_mm256_castsi256_ps(_mm256_and_si256(load_pairs(w), high))};
}
GRU_INLINE Vec round_bfloat16(Vec x) {
  const __m256i bits = _mm256_castps_si256(x.v);
  const __m256i last = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i near = _mm256_add_epi32(bits, _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i chosen = _mm256_blendv_epi8(near, quiet, _mm256_castps_si256(is_nan(x).m));
  const __m256i high = _mm256_set1_epi32(static_cast<int32_t>(0xffff0000u));
  return {_mm256_castsi256_ps(_mm256_and_si256(chosen, high))};
}

GRU_INLINE Ints splat_ints(int32_t a) { return {_mm256_set1_epi32(a)}; }
GRU_INLINE Ints plus(Ints a, Ints b) { return {_mm256_add_epi32(a.v, b.v)}; }
struct Nibbles {
  __m256i low, high;
};
GRU_INLINE Nibbles load_nibbles(const uint8_t* w) {
  const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(both, mask), _mm256_and_si256(_mm256_srli_epi16(both, 4), mask)};
}
GRU_INLINE Vec load_bfloat16(const uint8_t* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
}

GRU_END_KERNELS
