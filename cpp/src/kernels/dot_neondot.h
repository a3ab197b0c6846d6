// SPDX-License-Identifier: MIT
// Products of bytes with the dot products of Armv8.2. Functions mean what dot_scalar.h says.
#pragma once

#include "kernels/dot_neon_shared.h"

GRU_BEGIN_KERNELS

GRU_INLINE Ints dot(Ints sum, const Quad& a, const int8_t* w) {
  return {vdotq_s32(sum.v, a.v, vld1q_s8(w))};
}

GRU_INLINE Ints dot_unsigned(Ints sum, const uint8_t* x, int8x16_t w) {
  return {vdotq_s32(sum.v, load_quad(x).v, w)};
}

GRU_END_KERNELS
