// SPDX-License-Identifier: MIT
// Products of bytes and of bfloat16 on one lane, and the description of what every dot_*.h offers.
#pragma once

#include "kernels/base.h"

GRU_BEGIN_KERNELS

// Added to prepared values, where the instructions want one side unsigned.
constexpr int32_t kZeroPoint = 0;

// Sums of products of bytes, one for each lane of Vec.
struct Ints {
  int32_t v;
};
GRU_INLINE Ints load_ints(const int32_t* p) { return {*p}; }
GRU_INLINE Vec to_float(Ints a) { return {static_cast<float>(a.v)}; }

// Four prepared values of one row, for every lane.
struct Quad {
  int8_t v[4];
};
GRU_INLINE Quad load_quad(const uint8_t* p) {
  return {{static_cast<int8_t>(p[0]), static_cast<int8_t>(p[1]), static_cast<int8_t>(p[2]),
           static_cast<int8_t>(p[3])}};
}
// sum + a . w in every lane, with the 4 * kWidth weights at w. Exact while the sum fits 32 bits.
GRU_INLINE Ints dot(Ints sum, const Quad& a, const int8_t* w) {
  return {sum.v + a.v[0] * w[0] + a.v[1] * w[1] + a.v[2] * w[2] + a.v[3] * w[3]};
}
// |x| <= 127.5 to the nearest integers (ties to even), plus kZeroPoint: kWidth bytes at p. A NaN
// stores anything.
GRU_INLINE void store_bytes(uint8_t* p, Vec x) {
  *p = static_cast<uint8_t>(bits_of(x.v + 12582912.0f) & 255);
}

// The even and the odd ones of the pairs of bfloat16 at w.
GRU_INLINE Vec even(const uint16_t* w) {
  return {of_bits(static_cast<int32_t>(static_cast<uint32_t>(w[0]) << 16))};
}
GRU_INLINE Vec odd(const uint16_t* w) {
  return {of_bits(static_cast<int32_t>(static_cast<uint32_t>(w[1]) << 16))};
}
// The nearest bfloat16 (ties to even); NaN stays NaN.
GRU_INLINE Vec round_bfloat16(Vec x) {
  const auto bits = static_cast<uint32_t>(bits_of(x.v));
  if (x.v != x.v) return {of_bits(static_cast<int32_t>((bits | 0x400000u) & 0xffff0000u))};
  return {of_bits(static_cast<int32_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u))};
}

GRU_INLINE Ints splat_ints(int32_t a) { return {a}; }
GRU_INLINE Ints plus(Ints a, Ints b) { return {a.v + b.v}; }
// Four weights of 4 bits for each lane, twice: the low halves of the 4 * kWidth bytes at w, and the
// high ones. Each is a weight plus 8.
struct Nibbles {
  uint8_t low[4], high[4];
};
GRU_INLINE Nibbles load_nibbles(const uint8_t* w) {
  Nibbles pair;
  for (int i = 0; i < 4; ++i) {
    pair.low[i] = w[i] & 15;
    pair.high[i] = w[i] >> 4;
  }
  return pair;
}
// sum + x . w in every lane, with the four signed bytes at x.
GRU_INLINE Ints dot_unsigned(Ints sum, const uint8_t* x, const uint8_t* w) {
  for (int i = 0; i < 4; ++i) sum.v += static_cast<int8_t>(x[i]) * w[i];
  return sum;
}
// kWidth values of bfloat16, as they lie.
GRU_INLINE Vec load_bfloat16(const uint8_t* p) {
  return {of_bits(
      static_cast<int32_t>(static_cast<uint32_t>(p[1]) << 24 | static_cast<uint32_t>(p[0]) << 16))};
}

GRU_END_KERNELS
