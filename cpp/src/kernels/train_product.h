// SPDX-License-Identifier: MIT
// The products of training: c = init + a b with a in runs of columns, or transposed.
#pragma once

#include "isa/train_table.h"
#include "kernels/base.h"
#include "kernels/gemm.h"
#include "kernels/products.h"

GRU_BEGIN_KERNELS

// sums[p][r][g] += a[0..k)[r] * b[p][0..k)[g].
template <int P, int R, int NV>
GRU_INLINE void add_column_products(Vec (&sums)[P][R][NV], const float* a, int64_t lda, Panels b,
                                    int64_t k) {
  constexpr int V = Vec::kWidth;
  for (int64_t i = 0; i < k; ++i) {
    const float* row = b.data + i * (NV * V);
    Vec x[R];
    GRU_UNROLL
    for (int r = 0; r < R; ++r) x[r] = splat(a[i * lda + r]);
    GRU_UNROLL
    for (int p = 0; p < P; ++p) {
      GRU_UNROLL
      for (int g = 0; g < NV; ++g) {
        const Vec w = load(row + p * b.stride + g * V);
        GRU_UNROLL
        for (int r = 0; r < R; ++r) sums[p][r][g] = fma(x[r], w, sums[p][r][g]);
      }
    }
  }
}

template <int NV, bool ByColumns>
struct ProductTile {
  const ProductArgs& args;

  template <int P, int R>
  void run(int64_t block, int64_t row, Ahead ahead) const {
    constexpr int V = Vec::kWidth;
    Vec sums[P][R][NV];
    const int64_t left = args.n - block * (args.nv * V);
    const bool whole = left >= P * NV * V;
    start(sums, block, row, left, whole);
    const float* b = args.b + block * args.block_stride;
    if constexpr (ByColumns) {
      add_column_products<P, R, NV>(sums, args.a + row, args.lda, {b, args.block_stride}, args.k);
    } else {
      Coming coming = ahead.of({args.b, args.block_stride}, args.runs * args.k);
      const float* a = args.a + row * args.lda;
      for (int64_t j = 0; j < args.runs; ++j) {
        add_products<P, R, NV>(sums, {a, args.lda}, {b, args.block_stride}, coming, args.k,
                               [](int g) { return g; });
        a += args.run_stride;
        b += args.k * (NV * V);
        coming = coming.after(args.k);
      }
    }
    float* c = args.c + block * args.c_block + row * args.ldc;
    GRU_UNROLL
    for (int p = 0; p < P; ++p) {
      GRU_UNROLL
      for (int r = 0; r < R; ++r) {
        GRU_UNROLL
        for (int g = 0; g < NV; ++g) {
          const int at = (p * NV + g) * V;
          float* to = c + p * args.c_block + r * args.ldc + g * V;
          if (whole) {
            store(to, sums[p][r][g]);
          } else if (left > at) {
            store_columns(to, sums[p][r][g], left - at);
          }
        }
      }
    }
  }

  template <int P, int R>
  void start(Vec (&sums)[P][R][NV], int64_t block, int64_t row, int64_t left, bool whole) const {
    constexpr int V = Vec::kWidth;
    GRU_UNROLL
    for (int p = 0; p < P; ++p) {
      GRU_UNROLL
      for (int r = 0; r < R; ++r) {
        GRU_UNROLL
        for (int g = 0; g < NV; ++g) sums[p][r][g] = splat(0.0f);
      }
    }
    if (args.init == nullptr) return;
    const float* init = args.init + block * args.init_block + row * args.ldi;
    GRU_UNROLL
    for (int p = 0; p < P; ++p) {
      GRU_UNROLL
      for (int r = 0; r < R; ++r) {
        GRU_UNROLL
        for (int g = 0; g < NV; ++g) {
          const int at = (p * NV + g) * V;
          const float* from = init + p * args.init_block + r * args.ldi + g * V;
          if (whole) {
            sums[p][r][g] = load(from);
          } else if (left > at) {
            sums[p][r][g] = load_columns(from, left - at);
          }
        }
      }
    }
  }
};

template <int NV>
GRU_INLINE void product_blocks(const ProductArgs& args, int64_t begin, int64_t end) {
  if (args.by_columns) {
    // Many rows as a rule: blocks are never taken several at once.
    const ProductTile<NV, true> tile = {args};
    run_groups<1, rows_of_tile(NV), NV>(tile, begin, end, args.m, false);
  } else {
    const ProductTile<NV, false> tile = {args};
    run_tiles<NV, NV>(tile, begin, end, args.m);
  }
}

GRU_INLINE void product_blocks_of(int nv, const ProductArgs& args, int64_t begin, int64_t end) {
  switch (nv) {
    case 1:
      return product_blocks<1>(args, begin, end);
    case 2:
      return product_blocks<2>(args, begin, end);
    case 3:
      return product_blocks<3>(args, begin, end);
    default:
      return product_blocks<4>(args, begin, end);
  }
}

static void product(const ProductArgs& args) {
  const int64_t vectors = (args.n + Vec::kWidth - 1) / Vec::kWidth;
  const int64_t whole = vectors / args.nv;
  product_blocks_of(args.nv, args, 0, whole);
  const int rest = static_cast<int>(vectors % args.nv);
  if (rest != 0) product_blocks_of(rest, args, whole, whole + 1);
}

GRU_END_KERNELS
