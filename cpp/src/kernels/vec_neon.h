// SPDX-License-Identifier: MIT
// Four floats in a NEON register (AArch64). Functions mean what vec_scalar.h says.
#pragma once

#include <arm_neon.h>

#include "kernels/base.h"

GRU_BEGIN_KERNELS

struct Vec {
  static constexpr int kWidth = 4;
  static constexpr int kRegisters = 32;
  static constexpr int kChains = 16;  // 4 pipes, 4 cycles
  float32x4_t v;
};

struct Mask {
  uint32x4_t m;
};

GRU_INLINE Vec splat(float x) { return {vdupq_n_f32(x)}; }
GRU_INLINE Vec load(const float* p) { return {vld1q_f32(p)}; }
GRU_INLINE Vec load_first(const float* p, int n, float fill) {
  float32x4_t v = vdupq_n_f32(fill);
  v = vld1q_lane_f32(p, v, 0);
  if (n > 1) v = vld1q_lane_f32(p + 1, v, 1);
  if (n > 2) v = vld1q_lane_f32(p + 2, v, 2);
  if (n > 3) v = vld1q_lane_f32(p + 3, v, 3);
  return {v};
}
GRU_INLINE void store(float* p, Vec a) { vst1q_f32(p, a.v); }
GRU_INLINE void store_first(float* p, Vec a, int n) {
  vst1q_lane_f32(p, a.v, 0);
  if (n > 1) vst1q_lane_f32(p + 1, a.v, 1);
  if (n > 2) vst1q_lane_f32(p + 2, a.v, 2);
  if (n > 3) vst1q_lane_f32(p + 3, a.v, 3);
}

GRU_INLINE Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
GRU_INLINE Vec operator-(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
GRU_INLINE Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
GRU_INLINE Vec operator/(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
GRU_INLINE Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
GRU_INLINE Vec nfma(Vec a, Vec b, Vec c) { return {vfmsq_f32(c.v, a.v, b.v)}; }
GRU_INLINE Vec sqrt(Vec a) { return {vsqrtq_f32(a.v)}; }
GRU_INLINE Vec floor(Vec a) { return {vrndmq_f32(a.v)}; }

GRU_INLINE Vec min(Vec a, Vec b) { return {vminq_f32(a.v, b.v)}; }
GRU_INLINE Vec max(Vec a, Vec b) { return {vmaxq_f32(a.v, b.v)}; }
GRU_INLINE Vec abs(Vec a) { return {vabsq_f32(a.v)}; }
GRU_INLINE Vec copy_sign(Vec magnitude, Vec sign) {
  return {vbslq_f32(vdupq_n_u32(0x80000000u), sign.v, magnitude.v)};
}

GRU_INLINE Mask less(Vec a, Vec b) { return {vcltq_f32(a.v, b.v)}; }
GRU_INLINE Mask is_nan(Vec a) { return {vmvnq_u32(vceqq_f32(a.v, a.v))}; }
GRU_INLINE Vec select(Mask m, Vec yes, Vec no) { return {vbslq_f32(m.m, yes.v, no.v)}; }

GRU_INLINE Vec power_of_two(Vec n) {
  const int32x4_t e = vaddq_s32(vcvtq_s32_f32(n.v), vdupq_n_s32(127));
  return {vreinterpretq_f32_s32(vshlq_n_s32(e, 23))};
}
GRU_INLINE Vec scale(Vec a, Vec n) {
  const Vec half = floor(n * splat(0.5f));
  return a * power_of_two(half) * power_of_two(n - half);
}
GRU_INLINE Vec scale_small(Vec a, Vec n) { return a * power_of_two(n); }
GRU_INLINE Vec split(Vec a, Vec* e) {
  const int32x4_t bits = vreinterpretq_s32_f32(a.v);
  const int32x4_t n = vshrq_n_s32(vsubq_s32(bits, vdupq_n_s32(0x3f3504f3)), 23);
  *e = {vcvtq_f32_s32(n)};
  return {vreinterpretq_f32_s32(vsubq_s32(bits, vshlq_n_s32(n, 23)))};
}
GRU_INLINE Vec reciprocal_estimate(Vec a) { return splat(1.0f) / a; }
GRU_INLINE Vec reciprocal(Vec a) { return splat(1.0f) / a; }

GRU_INLINE float sum(Vec a) { return vaddvq_f32(a.v); }
GRU_INLINE float max_of(Vec a) { return vmaxvq_f32(a.v); }
GRU_INLINE float min_of(Vec a) { return vminvq_f32(a.v); }

GRU_END_KERNELS
