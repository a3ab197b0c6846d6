// SPDX-License-Identifier: MIT
// What the dot_neon*.h share. Functions mean what dot_scalar.h says.
#pragma once

#include <arm_neon.h>

#include "kernels/base.h"

GRU_BEGIN_KERNELS

constexpr int32_t kZeroPoint = 0;

struct Ints {
  int32x4_t v;
};
GRU_INLINE Ints load_ints(const int32_t* p) { return {vld1q_s32(p)}; }
GRU_INLINE Vec to_float(Ints a) { return {vcvtq_f32_s32(a.v)}; }

struct Quad {
  int8x16_t v;
};
GRU_INLINE Quad load_quad(const uint8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, sizeof(four));
  return {vreinterpretq_s8_s32(vdupq_n_s32(four))};
}
GRU_INLINE void store_bytes(uint8_t* p, Vec x) {
  const int16x4_t words = vmovn_s32(vcvtnq_s32_f32(x.v));
  const int8x8_t bytes = vmovn_s16(vcombine_s16(words, words));
  vst1_lane_s32(reinterpret_cast<int32_t*>(p), vreinterpret_s32_s8(bytes), 0);
}

GRU_INLINE uint32x4_t load_pairs(const uint16_t* w) { return vreinterpretq_u32_u16(vld1q_u16(w)); }
GRU_INLINE Vec even(const uint16_t* w) {
  return {vreinterpretq_f32_u32(vshlq_n_u32(load_pairs(w), 16))};
}
GRU_INLINE Vec odd(const uint16_t* w) {
  return {vreinterpretq_f32_u32(vandq_u32(load_pairs(w), vdupq_n_u32(0xffff0000u)))};
}
GRU_INLINE Vec round_bfloat16(Vec x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x.v);
  const uint32x4_t last = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t near = vaddq_u32(bits, vaddq_u32(last, vdupq_n_u32(0x7fff)));
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  const uint32x4_t chosen = vbslq_u32(is_nan(x).m, quiet, near);
  return {vreinterpretq_f32_u32(vandq_u32(chosen, vdupq_n_u32(0xffff0000u)))};
}

GRU_INLINE Ints splat_ints(int32_t a) { return {vdupq_n_s32(a)}; }
GRU_INLINE Ints plus(Ints a, Ints b) { return {vaddq_s32(a.v, b.v)}; }
struct Nibbles {
  int8x16_t low, high;
};
GRU_INLINE Nibbles load_nibbles(const uint8_t* w) {
  const uint8x16_t both = vld1q_u8(w);
  return {vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15))),
          vreinterpretq_s8_u8(vshrq_n_u8(both, 4))};
}
GRU_INLINE Vec load_bfloat16(const uint8_t* p) {
  uint16x4_t half;
  __builtin_memcpy(&half, p, sizeof(half));
  return {vreinterpretq_f32_u32(vshll_n_u16(half, 16))};
}

GRU_END_KERNELS
