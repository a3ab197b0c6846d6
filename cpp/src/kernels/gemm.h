// SPDX-License-Identifier: MIT
// c = init + a * b with b in panels; see GemmArgs.
#pragma once

#include "kernels/base.h"
#include "kernels/products.h"

GRU_BEGIN_KERNELS

// What tiles start from without initial values: up to 32 vectors of a row.
alignas(64) constexpr float kZeros[32 * Vec::kWidth] = {};

// Columns past the last one are read and written through a copy of the tile, so that tiles of every
// shape share the code that takes care of them.
struct Edge {
  const float* data;
  int64_t ld;
};
GRU_NOINLINE void read_edge(Edge from, int64_t left, int rows, int vectors, float* tile) {
  for (int r = 0; r < rows; ++r) {
    for (int64_t at = 0; at < vectors * Vec::kWidth; at += Vec::kWidth) {
      const bool any = at < left;
      store(tile, any ? load_columns(from.data + r * from.ld + at, left - at) : splat(0.0f));
      tile += Vec::kWidth;
    }
  }
}
GRU_NOINLINE void write_edge(const float* tile, int64_t left, int rows, int vectors, float* to,
                             int64_t ld) {
  for (int r = 0; r < rows; ++r) {
    for (int64_t at = 0; at < vectors * Vec::kWidth; at += Vec::kWidth) {
      if (at < left) store_columns(to + r * ld + at, load(tile), left - at);
      tile += Vec::kWidth;
    }
  }
}

template <int NV>
struct GemmTile {
  const GemmArgs& args;

  int64_t depth() const { return args.k; }
  Panels weights() const { return {args.b, args.block_stride}; }

  template <int P, int R>
  void run(int64_t block, int64_t row, const Part& part) const {
    constexpr int V = Vec::kWidth;
    constexpr int kVectors = P * NV;
    Vec sums[P][R][NV];
    alignas(64) float edge[R * kVectors * V];
    const int64_t column = block * (args.nv * V);
    const int64_t left = args.n - column;
    const bool whole = left >= kVectors * V;
    Edge from = {kZeros, 0};
    if (comes_in_parts(P, R, NV, NV) && !part.first) {
      from = {part.kept, kVectors * V};
    } else if (args.init != nullptr) {
      from = {args.init + row * args.ldi + column, args.ldi};
      if (!whole) {
        read_edge(from, left, R, kVectors, edge);
        from = {edge, kVectors * V};
      }
    }
    GRU_UNROLL
    for (int r = 0; r < R; ++r) {
      GRU_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        sums[v / NV][r][v % NV] = load(from.data + r * from.ld + v * V);
      }
    }
    const Rows a = {args.a + row * args.lda + part.begin, args.lda};
    const Panels b = {args.b + block * args.block_stride + part.begin * (NV * V),
                      args.block_stride};
    add_products<P, R, NV>(sums, a, b, part.coming, part.end - part.begin, [](int g) { return g; });
    float* c = args.c + row * args.ldc + column;
    const bool last = !comes_in_parts(P, R, NV, NV) || part.last;
    const bool ends = last && whole;
    float* to = ends ? c : last ? edge : part.kept;
    const int64_t ld = ends ? args.ldc : kVectors * V;
    GRU_UNROLL
    for (int r = 0; r < R; ++r) {
      GRU_UNROLL
      for (int v = 0; v < kVectors; ++v) store(to + r * ld + v * V, sums[v / NV][r][v % NV]);
    }
    if (last && !whole) write_edge(edge, left, R, kVectors, c, args.ldc);
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
