// SPDX-License-Identifier: MIT
// c = init + a * b with b in blocks of int4; see isa/low_table.h. One loop over sections and few
// shapes of tiles: such weights wait for memory.
#pragma once

#include "kernels/base.h"
#include "kernels/low_prepare.h"
#include "kernels/products.h"

GRU_BEGIN_KERNELS

constexpr int kSection = 32;

// Signed bytes, and behind them -8 * (their sum) of each section: weights are stored plus 8.
static void prepare_int4(const PrepareArgs& args) {
  const int64_t sections = (args.k + kSection - 1) / kSection;
  for (int64_t r = 0; r < args.rows; ++r) {
    auto* to = static_cast<uint8_t*>(args.to) + r * args.stride;
    prepare_int8_row(args.from + r * args.ld, args.k, sections * kSection, args.range, to,
                     args.scale + r);
    auto* starts = reinterpret_cast<int32_t*>(to + sections * kSection);
    for (int64_t s = 0; s < sections; ++s, to += kSection) {
      int32_t sum = 0;
      for (int i = 0; i < kSection; ++i) {
        to[i] = static_cast<uint8_t>(to[i] ^ kZeroPoint);
        sum += static_cast<int8_t>(to[i]);
      }
      starts[s] = -8 * sum;
    }
  }
}

struct Int4Block {
  const uint8_t* scales;   // [sections][columns]
  const uint8_t* weights;  // [sections][4][columns] of 4 bytes
  int64_t columns;
};

// R rows from `row` times NV vectors of a block, whose first column in the matrix is `column`.
template <int NV, int R>
GRU_NOINLINE void int4_tile(const LowGemmArgs& args, const Int4Block& b, int64_t row,
                            int64_t column) {
  constexpr int V = Vec::kWidth;
  const int64_t sections = (args.k + kSection - 1) / kSection;
  const auto* a = static_cast<const uint8_t*>(args.a.data) + row * args.a.stride;
  Vec out[R][NV];
  GRU_UNROLL
  for (int r = 0; r < R; ++r) {
    GRU_UNROLL
    for (int g = 0; g < NV; ++g) {
      const int64_t left = args.n - column - g * V;
      const bool read = args.init != nullptr && left > 0;
      const float* from = args.init + (row + r) * args.ldi + column + g * V;
      out[r][g] = read ? load_columns(from, left) : splat(0.0f);
    }
  }
  for (int64_t s = 0; s < sections; ++s) {
    // A single row has two chains for each vector, or they would wait for themselves.
    Ints sums[R][NV], more[NV];
    GRU_UNROLL
    for (int r = 0; r < R; ++r) {
      int32_t start;
      __builtin_memcpy(&start, a + r * args.a.stride + sections * kSection + s * 4, 4);
      GRU_UNROLL
      for (int g = 0; g < NV; ++g) sums[r][g] = splat_ints(start);
    }
    GRU_UNROLL
    for (int g = 0; g < NV; ++g) more[g] = splat_ints(0);
    const uint8_t* w = b.weights + s * b.columns * (kSection / 2);
    GRU_UNROLL
    for (int i = 0; i < kSection / 8; ++i) {
      GRU_UNROLL
      for (int g = 0; g < NV; ++g) {
        const Nibbles pair = load_nibbles(w + (i * b.columns + g * V) * 4);
        GRU_UNROLL
        for (int r = 0; r < R; ++r) {
          const uint8_t* x = a + r * args.a.stride + s * kSection + i * 8;
          sums[r][g] = dot_unsigned(sums[r][g], x, pair.low);
          Ints& other = R == 1 ? more[g] : sums[r][g];
          other = dot_unsigned(other, x + 4, pair.high);
        }
      }
    }
    GRU_UNROLL
    for (int g = 0; g < NV; ++g) {
      const Vec scale = load_bfloat16(b.scales + (s * b.columns + g * V) * 2);
      GRU_UNROLL
      for (int r = 0; r < R; ++r) {
        const Ints sum = R == 1 ? plus(sums[r][g], more[g]) : sums[r][g];
        out[r][g] = fma(to_float(sum), splat(args.a.scale[row + r]) * scale, out[r][g]);
      }
    }
  }
  GRU_UNROLL
  for (int r = 0; r < R; ++r) {
    GRU_UNROLL
    for (int g = 0; g < NV; ++g) {
      const int64_t left = args.n - column - g * V;
      if (left > 0) store_columns(args.c + (row + r) * args.ldc + column + g * V, out[r][g], left);
    }
  }
}

template <int NV>
GRU_INLINE void int4_rows(const LowGemmArgs& args, const Int4Block& b, int64_t row, int64_t rows,
                          int64_t column) {
  if (rows == 2) return int4_tile<NV, 2>(args, b, row, column);
  int4_tile<NV, 1>(args, b, row, column);
}

static void int4_gemm(const LowGemmArgs& args) {
  constexpr int64_t V = Vec::kWidth;
  const int64_t vectors = (args.n + V - 1) / V;
  const int64_t sections = (args.k + kSection - 1) / kSection;
  for (int64_t first = 0; first < vectors; first += args.nv) {
    const int64_t used = vectors - first < args.nv ? vectors - first : args.nv;
    const auto* block = static_cast<const uint8_t*>(args.b) + first / args.nv * args.block_stride;
    const int64_t head = sections * used * V * 2;
    for (int64_t row = 0; row < args.m; row += 2) {
      const int64_t rows = args.m - row < 2 ? 1 : 2;
      for (int64_t g = 0; g < used;) {
        const Int4Block b{block + g * V * 2, block + head + g * V * 4, used * V};
        const int64_t column = (first + g) * V;
        switch (used - g) {
          case 4:
            int4_rows<4>(args, b, row, rows, column);
            g += 4;
            break;
          case 3:
            int4_rows<3>(args, b, row, rows, column);
            g += 3;
            break;
          default:
            int4_rows<1>(args, b, row, rows, column);
            ++g;
        }
      }
    }
  }
}

GRU_END_KERNELS
