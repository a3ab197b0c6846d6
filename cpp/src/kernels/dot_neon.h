// SPDX-License-Identifier: MIT
// Products of bytes without dot products. Functions mean what dot_scalar.h says.
#pragma once

#include "kernels/dot_neon_shared.h"

GRU_BEGIN_KERNELS

// Products of bytes fit 16 bits, sums of two of them fit too: 2 * 127 * 127.
GRU_INLINE Ints dot_bytes(Ints sum, const Quad& a, int8x16_t b) {
  const int16x8_t low = vmull_s8(vget_low_s8(a.v), vget_low_s8(b));
  const int16x8_t high = vmull_high_s8(a.v, b);
  return {vpadalq_s16(sum.v, vpaddq_s16(low, high))};
}

GRU_INLINE Ints dot(Ints sum, const Quad& a, const int8_t* w) {
  return dot_bytes(sum, a, vld1q_s8(w));
}
GRU_INLINE Ints dot_unsigned(Ints sum, const uint8_t* x, int8x16_t w) {
  return dot_bytes(sum, load_quad(x), w);
}

GRU_END_KERNELS
