// SPDX-License-Identifier: MIT
// Products of bytes with AVX-VNNI. Functions mean what dot_scalar.h says.
#pragma once

#include "kernels/dot_ymm.h"

GRU_BEGIN_KERNELS

constexpr int32_t kZeroPoint = 128;  // vpdpbusd takes one side unsigned

struct Quad {
  __m256i v;
};
GRU_INLINE Quad load_quad(const uint8_t* p) { return {splat_quad(p)}; }
GRU_INLINE Ints dot(Ints sum, const Quad& a, const int8_t* w) {
  return {_mm256_dpbusd_avx_epi32(sum.v, a.v, load_bytes(w))};
}
GRU_INLINE void store_bytes(uint8_t* p, Vec x) {
  store_low_bytes(p, _mm256_add_epi32(_mm256_cvtps_epi32(x.v), _mm256_set1_epi32(kZeroPoint)));
}

GRU_INLINE Ints dot_unsigned(Ints sum, const uint8_t* x, __m256i w) {
  return {_mm256_dpbusd_avx_epi32(sum.v, w, splat_quad(x))};
}

GRU_END_KERNELS
