// SPDX-License-Identifier: MIT
// Tiles of products in bfloat16 and int8: P blocks x R rows x NV vectors of sums in registers.
//
// A tile adds its products to float32 values in memory. That costs a few loads and stores a tile,
// and lets matrix products and every cell share one copy of the inner loops.
#pragma once

#include "isa/low_table.h"
#include "kernels/base.h"
#include "kernels/products.h"

GRU_BEGIN_KERNELS

struct LowTile {
  const uint8_t* a;  // the first row
  int64_t a_stride;  // bytes
  const float* a_scale;
  const uint8_t* b;  // the first block
  int64_t b_stride;  // bytes
  int64_t groups;    // of rows of a block; set, as the low parts are, by add_terms()
  float* to;         // [P][R] rows of `chains` vectors
  int chains;        // vectors of a row, NV or more
  int last;          // which of them the last vector of a block goes to; others go in order
  int64_t a_low = 0, b_low = 0;  // bytes from high to low parts; 0: there is one part
};

// Vectors of sums of the largest tile, a cell having up to 4 / 3 as many of them as gates.
constexpr int kMostLowSums = (Vec::kRegisters + 2) / 3 * 4;

template <int NV>
GRU_INLINE int chain_of(const LowTile& t, int g) {
  return g == NV - 1 ? t.last : g;
}

// The products of k values, in each of their terms, with a block of NV vectors.
template <class Weights>
GRU_INLINE void add_terms(void (*add)(const LowTile&), LowTile t, int nv, int64_t k,
                          int32_t terms) {
  t.groups = (k + Weights::kGroup - 1) / Weights::kGroup;
  if constexpr (Weights::kGroup == 2) {
    if (terms == 3) {
      const int64_t rows = (k + Weights::kMultiple - 1) / Weights::kMultiple * Weights::kMultiple;
      t.groups = rows / 2;
      t.a_low = rows * Weights::kValueBytes;
      t.b_low = rows * nv * Vec::kWidth * 2;
    }
  }
  add(t);
}

// Weights of int8: sums are exact, and become floats at the end.
struct Int8Weights {
  static constexpr int kGroup = 4;
  static constexpr int kMultiple = 4;

  template <int NV, int P, int R>
  GRU_NOINLINE void add(const LowTile& t) {
    constexpr int V = Vec::kWidth;
    constexpr int64_t kHead = NV * V * 4;  // bytes of the scales, and of the starts
    Ints sums[P][R][NV];
    GRU_UNROLL
    for (int p = 0; p < P; ++p) {
      const auto* start = reinterpret_cast<const int32_t*>(t.b + p * t.b_stride + kHead);
      GRU_UNROLL
      for (int g = 0; g < NV; ++g) {
        const Ints from = load_ints(start + g * V);
        GRU_UNROLL
        for (int r = 0; r < R; ++r) sums[p][r][g] = from;
      }
    }
    const auto* weights = reinterpret_cast<const int8_t*>(t.b + 2 * kHead);
    for (int64_t i = 0; i < t.groups; ++i) {
      Quad a[R];
      GRU_UNROLL
      for (int r = 0; r < R; ++r) a[r] = load_quad(t.a + r * t.a_stride + i * 4);
      const int8_t* row = weights + i * (NV * V * 4);
      GRU_UNROLL
      for (int p = 0; p < P; ++p) {
        GRU_UNROLL
        for (int g = 0; g < NV; ++g) {
          const int8_t* w = row + p * t.b_stride + g * V * 4;
          GRU_UNROLL
          for (int r = 0; r < R; ++r) sums[p][r][g] = dot(sums[p][r][g], a[r], w);
        }
      }
    }
    GRU_UNROLL
    for (int p = 0; p < P; ++p) {
      const auto* scale = reinterpret_cast<const float*>(t.b + p * t.b_stride);
      GRU_UNROLL
      for (int r = 0; r < R; ++r) {
        const Vec row = splat(t.a_scale[r]);
        GRU_UNROLL
        for (int g = 0; g < NV; ++g) {
          float* to = t.to + ((p * R + r) * t.chains + chain_of<NV>(t, g)) * V;
          store(to, fma(to_float(sums[p][r][g]), row * load(scale + g * V), load(to)));
        }
      }
    }
  }
};

// Weights of bfloat16, widened: prepared values are floats already rounded.
struct Bfloat16Weights {
  static constexpr int kGroup = 2;
  static constexpr int kValueBytes = 4;
  static constexpr int kMultiple = 2;

  template <int NV, int P, int R>
  GRU_NOINLINE void add(const LowTile& t) {
    constexpr int V = Vec::kWidth;
    Vec sums[P][R][NV];
    each<NV, P, R>(t, sums, [](Vec& sum, float* at) { sum = load(at); });
    const int64_t stride = t.a_stride / 4;
    for (int term = 0; term < (t.a_low > 0 ? 3 : 1); ++term) {
      const auto* a = reinterpret_cast<const float*>(t.a + (term == 1 ? t.a_low : 0));
      const auto* b = reinterpret_cast<const uint16_t*>(t.b + (term == 2 ? t.b_low : 0));
      for (int64_t i = 0; i < t.groups; ++i) {
        const auto* row = b + i * (NV * V * 2);
        const int64_t block = t.b_stride / 2;
        add_half<NV, P, R>(sums, a + 2 * i, stride, row, block, [](auto* w) { return even(w); });
        add_half<NV, P, R>(sums, a + 2 * i + 1, stride, row, block, [](auto* w) { return odd(w); });
      }
    }
    each<NV, P, R>(t, sums, [](Vec& sum, float* at) { store(at, sum); });
  }

 private:
  template <int NV, int P, int R, class Half>
  GRU_INLINE void add_half(Vec (&sums)[P][R][NV], const float* a, int64_t stride, const uint16_t* w,
                           int64_t block, Half half) {
    constexpr int V = Vec::kWidth;
    Vec x[R];
    GRU_UNROLL
    for (int r = 0; r < R; ++r) x[r] = splat(a[r * stride]);
    GRU_UNROLL
    for (int p = 0; p < P; ++p) {
      GRU_UNROLL
      for (int g = 0; g < NV; ++g) {
        const Vec weight = half(w + p * block + g * V * 2);
        GRU_UNROLL
        for (int r = 0; r < R; ++r) sums[p][r][g] = fma(x[r], weight, sums[p][r][g]);
      }
    }
  }

  template <int NV, int P, int R, class F>
  GRU_INLINE void each(const LowTile& t, Vec (&sums)[P][R][NV], F f) {
    GRU_UNROLL
    for (int p = 0; p < P; ++p) {
      GRU_UNROLL
      for (int r = 0; r < R; ++r) {
        GRU_UNROLL
        for (int g = 0; g < NV; ++g) {
          f(sums[p][r][g], t.to + ((p * R + r) * t.chains + chain_of<NV>(t, g)) * Vec::kWidth);
        }
      }
    }
  }
};

GRU_END_KERNELS
