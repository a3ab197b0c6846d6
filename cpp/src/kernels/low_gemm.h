// SPDX-License-Identifier: MIT
// c = init + a * b with b in blocks of bfloat16 or int8; see LowGemmArgs.
#pragma once

#include "kernels/base.h"
#include "kernels/low_tile.h"
#include "kernels/products.h"

GRU_BEGIN_KERNELS

template <class Weights, int NV>
struct LowGemmTile {
  const LowGemmArgs& args;

  // Products of one chain that are not cut.
  int64_t depth() const { return 0; }
  Panels weights() const { return {nullptr, 0}; }

  template <int P, int R>
  void run(int64_t block, int64_t row, const Part&) const {
    static_assert(P * R * NV <= kMostLowSums);
    run_with(block, row, P, R, &Weights::template add<NV, P, R>);
  }

  // One copy for all shapes: what depends on the shape in earnest is the loop of the products.
  GRU_NEVER_INLINE void run_with(int64_t block, int64_t row, int blocks, int rows,
                                 void (*add)(const LowTile&)) const {
    constexpr int V = Vec::kWidth;
    alignas(64) float sums[kMostLowSums * V];
    const int64_t column = block * (args.nv * V);
    for (int p = 0; p < blocks; ++p) {
      for (int r = 0; r < rows; ++r) {
        start(sums + (p * rows + r) * NV * V, row + r, column + p * NV * V);
      }
    }
    add_terms<Weights>(add,
                       {static_cast<const uint8_t*>(args.a.data) + row * args.a.stride,
                        args.a.stride, args.a.scale == nullptr ? nullptr : args.a.scale + row,
                        static_cast<const uint8_t*>(args.b) + block * args.block_stride,
                        args.block_stride, 0, sums, NV, NV - 1},
                       NV, args.k, args.terms);
    for (int p = 0; p < blocks; ++p) {
      for (int r = 0; r < rows; ++r) {
        finish(sums + (p * rows + r) * NV * V, row + r, column + p * NV * V);
      }
    }
  }

  void start(float* sums, int64_t row, int64_t column) const {
    constexpr int V = Vec::kWidth;
    const float* from = args.init == nullptr ? nullptr : args.init + row * args.ldi + column;
    GRU_UNROLL
    for (int g = 0; g < NV; ++g) {
      const int64_t left = args.n - column - g * V;
      const bool read = from != nullptr && left > 0;
      store(sums + g * V, read ? load_columns(from + g * V, left) : splat(0.0f));
    }
  }

  void finish(const float* sums, int64_t row, int64_t column) const {
    constexpr int V = Vec::kWidth;
    float* to = args.c + row * args.ldc + column;
    GRU_UNROLL
    for (int g = 0; g < NV; ++g) {
      const int64_t left = args.n - column - g * V;
      if (left > 0) store_columns(to + g * V, load(sums + g * V), left);
    }
  }
};

template <class Weights, int NV>
GRU_NOINLINE void low_gemm_blocks(const LowGemmArgs& args, int64_t begin, int64_t end) {
  const LowGemmTile<Weights, NV> tile = {args};
  run_tiles<NV, NV>(tile, begin, end, args.m);
}

template <class Weights>
GRU_INLINE void low_gemm_blocks_of(int nv, const LowGemmArgs& args, int64_t begin, int64_t end) {
  switch (nv) {
    case 1:
      return low_gemm_blocks<Weights, 1>(args, begin, end);
    case 2:
      return low_gemm_blocks<Weights, 2>(args, begin, end);
    case 3:
      return low_gemm_blocks<Weights, 3>(args, begin, end);
    default:
      return low_gemm_blocks<Weights, 4>(args, begin, end);
  }
}

template <class Weights>
static void low_gemm(const LowGemmArgs& args) {
  const int64_t vectors = (args.n + Vec::kWidth - 1) / Vec::kWidth;
  const int64_t whole = vectors / args.nv;
  low_gemm_blocks_of<Weights>(args.nv, args, 0, whole);
  const int rest = static_cast<int>(vectors % args.nv);
  if (rest != 0) low_gemm_blocks_of<Weights>(rest, args, whole, whole + 1);
}

GRU_END_KERNELS
