// SPDX-License-Identifier: MIT
// c = init + a * b with b in panels; see GemmArgs.
#pragma once

#include "kernels/base.h"
#include "kernels/products.h"

GRU_BEGIN_KERNELS

template <int NV>
struct GemmTile {
  const GemmArgs& args;

  template <int P, int R>
  void run(int64_t block, int64_t row, Ahead ahead) const {
    constexpr int V = Vec::kWidth;
    Vec sums[P][R][NV];
    const int64_t column = block * (args.nv * V);
    const int64_t left = args.n - column;
    const bool whole = left >= P * NV * V;
    start(sums, row, column, whole);
    const Rows a = {args.a + row * args.lda, args.lda};
    const Panels b = {args.b + block * args.block_stride, args.block_stride};
    const Coming coming = ahead.of({args.b, args.block_stride}, args.k);
    add_products<P, R, NV>(sums, a, b, coming, args.k, [](int g) { return g; });
    GRU_UNROLL
    for (int p = 0; p < P; ++p) {
      GRU_UNROLL
      for (int r = 0; r < R; ++r) {
        GRU_UNROLL
        for (int g = 0; g < NV; ++g) {
          const int at = (p * NV + g) * V;
          float* c = args.c + (row + r) * args.ldc + column + at;
          if (whole) {
            store(c, sums[p][r][g]);
          } else if (left > at) {
            store_columns(c, sums[p][r][g], left - at);
          }
        }
      }
    }
  }

  template <int P, int R>
  void start(Vec (&sums)[P][R][NV], int64_t row, int64_t column, bool whole) const {
    constexpr int V = Vec::kWidth;
    GRU_UNROLL
    for (int p = 0; p < P; ++p) {
      GRU_UNROLL
      for (int r = 0; r < R; ++r) {
        GRU_UNROLL
        for (int g = 0; g < NV; ++g) {
          const int at = (p * NV + g) * V;
          const int64_t left = args.n - column - at;
          const float* from = args.init + (row + r) * args.ldi + column + at;
          sums[p][r][g] = splat(0.0f);
          if (args.init != nullptr) {
            if (whole) {
              sums[p][r][g] = load(from);
            } else if (left > 0) {
              sums[p][r][g] = load_columns(from, left);
            }
          }
        }
      }
    }
  }
};

template <int NV>
GRU_INLINE void gemm_blocks(const GemmArgs& args, int64_t begin, int64_t end) {
  const GemmTile<NV> tile = {args};
  run_tiles<NV, NV>(tile, begin, end, args.m);
}

GRU_INLINE void gemm_blocks_of(int nv, const GemmArgs& args, int64_t begin, int64_t end) {
  switch (nv) {
    case 1:
      return gemm_blocks<1>(args, begin, end);
    case 2:
      return gemm_blocks<2>(args, begin, end);
    case 3:
      return gemm_blocks<3>(args, begin, end);
    default:
      return gemm_blocks<4>(args, begin, end);
  }
}

static void gemm(const GemmArgs& args) {
  const int64_t vectors = (args.n + Vec::kWidth - 1) / Vec::kWidth;
  const int64_t whole = vectors / args.nv;
  gemm_blocks_of(args.nv, args, 0, whole);
  const int rest = static_cast<int>(vectors % args.nv);
  if (rest != 0) gemm_blocks_of(rest, args, whole, whole + 1);
}

GRU_END_KERNELS
