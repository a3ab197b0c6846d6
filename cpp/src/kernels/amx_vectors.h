// SPDX-License-Identifier: MIT
// The products of amx_product.h with vectors, for few rows and small matrices: the same numbers.
//
// Tiles of bfloat16 add 32 products at a time: the even ones and the odd ones in a chain each that
// starts from zero, then both chains together to the sum (Intel 64 and IA-32 manual, TDPBF16PS).
// Subnormal values count as zero, as they do for vectors inside the engine.
#pragma once

#include <immintrin.h>

#include "kernels/amx_tiles.h"
#include "kernels/base.h"
#include "kernels/low_prepare.h"
#include "kernels/low_tile.h"

GRU_BEGIN_KERNELS

struct TiledInt8Weights : Int8Weights {
  static constexpr int kMultiple = Int8Tiles::kMultiple;
};

struct TiledBfloat16Weights {
  static constexpr int kGroup = 2;
  static constexpr int kValueBytes = 2;
  static constexpr int kMultiple = Bfloat16Tiles::kMultiple;

  template <int NV, int P, int R>
  GRU_NOINLINE void add(const LowTile& t) {
    for (int p = 0; p < P; ++p) {
      int r = 0;
      for (; r + 2 <= R; r += 2) add_rows<NV, 2>(t, p, r, R);
      if (r < R) add_rows<NV, 1>(t, p, r, R);
    }
  }

 private:
  template <int NV, int R>
  GRU_INLINE void add_rows(const LowTile& t, int p, int first, int rows) {
    constexpr int V = Vec::kWidth;
    const uint8_t* w = t.b + p * t.b_stride;
    const uint8_t* a = t.a + first * t.a_stride;
    Vec sums[R][NV];
    const auto at = [&](int r, int g) {
      return t.to + ((p * rows + first + r) * t.chains + chain_of<NV>(t, g)) * V;
    };
    GRU_UNROLL
    for (int r = 0; r < R; ++r) {
      GRU_UNROLL
      for (int g = 0; g < NV; ++g) sums[r][g] = load(at(r, g));
    }
    for (int64_t left = t.groups; left > 0; left -= 16) {
      // Rows behind the last are zero on both sides: one of them is as good as many.
      const int64_t n = left >= 16 ? 16 : left + 1;
      add_block<NV, R>(sums, a, t.a_stride, w, n);
      if (t.a_low > 0) {
        add_block<NV, R>(sums, a + t.a_low, t.a_stride, w, n);
        add_block<NV, R>(sums, a, t.a_stride, w + t.b_low, n);
      }
      a += kTileBytes;
      w += 16 * NV * V * 4;
    }
    GRU_UNROLL
    for (int r = 0; r < R; ++r) {
      GRU_UNROLL
      for (int g = 0; g < NV; ++g) store(at(r, g), sums[r][g]);
    }
  }

  template <int NV, int R>
  GRU_INLINE void add_block(Vec (&sums)[R][NV], const uint8_t* a, int64_t a_stride,
                            const uint8_t* weights, int64_t n) {
    constexpr int V = Vec::kWidth;
    Vec even_sums[R][NV], odd_sums[R][NV];
    GRU_UNROLL
    for (int r = 0; r < R; ++r) {
      GRU_UNROLL
      for (int g = 0; g < NV; ++g) even_sums[r][g] = odd_sums[r][g] = splat(0.0f);
    }
    for (int64_t i = 0; i < n; ++i) {
      Vec x[R], y[R];
      GRU_UNROLL
      for (int r = 0; r < R; ++r) {
        const __m512i pair = splat_quad(a + r * a_stride + i * 4);
        x[r] = {_mm512_castsi512_ps(_mm512_slli_epi32(pair, 16))};
        y[r] = {_mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32(-65536)))};
      }
      const auto* w = reinterpret_cast<const uint16_t*>(weights) + i * (NV * V * 2);
      GRU_UNROLL
      for (int g = 0; g < NV; ++g) {
        const Vec low = even(w + g * V * 2);
        const Vec high = odd(w + g * V * 2);
        GRU_UNROLL
        for (int r = 0; r < R; ++r) {
          even_sums[r][g] = fma(x[r], low, even_sums[r][g]);
          odd_sums[r][g] = fma(y[r], high, odd_sums[r][g]);
        }
      }
    }
    GRU_UNROLL
    for (int r = 0; r < R; ++r) {
      GRU_UNROLL
      for (int g = 0; g < NV; ++g) {
        sums[r][g] = sums[r][g] + (even_sums[r][g] + odd_sums[r][g]);
      }
    }
  }
};

template <int P, int R, class Tile>
GRU_INLINE void run_few_rows(const Tile& tile, int64_t block, int64_t rows) {
  constexpr Part kAll = {};
  int64_t row = 0;
  for (; row + R <= rows; row += R) tile.template run<P, R>(block, row, kAll);
  if constexpr (R > 1) {
    if (row < rows) tile.template run<P, 1>(block, row, kAll);
  }
}

template <int P, int R, class Tile>
GRU_INLINE void run_few_blocks(const Tile& tile, int64_t begin, int64_t end, int64_t rows,
                               bool backwards) {
  int64_t left = end - begin;
  for (; left >= P; left -= P) {
    run_few_rows<P, R>(tile, backwards ? begin + left - P : end - left, rows);
  }
  for (; left > 0; --left) {
    run_few_rows<1, R>(tile, backwards ? begin + left - 1 : end - left, rows);
  }
}

// All blocks [begin, end), at most two rows at once: more take tiles.
template <int NV, class Tile>
GRU_INLINE void run_few(const Tile& tile, int64_t begin, int64_t end, int64_t rows,
                        bool backwards) {
  constexpr int kBlocks = NV == 1 ? 8 : NV == 2 ? 4 : 2;
  if (rows == 1) {
    run_few_blocks<kBlocks, 1>(tile, begin, end, rows, backwards);
  } else {
    run_few_blocks<kBlocks / 2, 2>(tile, begin, end, rows, backwards);
  }
}

// Rows in whole tiles, behind them zeros. The instruction rounds to nearest, ties to even.
static void prepare_tiled_bfloat16(const PrepareArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* from = args.from + r * args.ld;
    uint8_t* to = static_cast<uint8_t*>(args.to) + r * args.stride;
    const int64_t part_bytes = (args.k + 31) / 32 * 64;
    for (int64_t i = 0; i < args.k; i += 32) {
      const auto part = [&](int64_t at) {
        if (at >= args.k) return splat(0.0f);
        return load_columns(from + at, args.k - at);
      };
      const Vec low = part(i), high = part(i + 16);
      const __m512bh both = _mm512_cvtne2ps_pbh(high.v, low.v);
      __builtin_memcpy(to + i * 2, &both, sizeof(both));
      if (args.terms == 1) continue;
      const __m512bh rest = _mm512_cvtne2ps_pbh(low_part(high).v, low_part(low).v);
      __builtin_memcpy(to + part_bytes + i * 2, &rest, sizeof(rest));
    }
  }
}

static void prepare_tiled_int8(const PrepareArgs& args) {
  const int64_t padded = (args.k + 63) / 64 * 64;
  for (int64_t r = 0; r < args.rows; ++r) {
    prepare_int8_row(args.from + r * args.ld, args.k, padded, args.range,
                     static_cast<uint8_t*>(args.to) + r * args.stride, args.scale + r);
  }
}

GRU_END_KERNELS
