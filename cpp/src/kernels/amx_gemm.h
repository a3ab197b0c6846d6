// SPDX-License-Identifier: MIT
// c = init + a * b with products of tiles; the same chains as amx_vectors.h.
#pragma once

#include "kernels/amx_product.h"
#include "kernels/amx_vectors.h"
#include "kernels/low_gemm.h"

GRU_BEGIN_KERNELS

template <class Kind, int NV>
struct GemmJob {
  static constexpr int kGates = NV;
  static constexpr int kChains = NV;
  static constexpr int kSegments = 1;
  static constexpr int chain(int, int gate) { return gate; }

  const LowGemmArgs& args;

  static constexpr int64_t kHead = Kind::kScaled ? NV * kTileFloats * 8 : 0;
  int64_t column(int64_t block) const { return block * (args.nv * kTileFloats); }

  TileSegment segment(int, int64_t block) const {
    const uint8_t* b = static_cast<const uint8_t*>(args.b) + block * args.block_stride;
    const int64_t tiles = (args.k + Kind::kMultiple - 1) / Kind::kMultiple;
    return {args.a, b, b + kHead, tiles, args.terms == 3};
  }

  TileStart start(int64_t block, int64_t row, int c) const {
    alignas(64) static constexpr float kZeros[kTileFloats] = {};
    if (args.init == nullptr) return {kZeros, 0};
    return {args.init + row * args.ldi + column(block) + c * kTileFloats, args.ldi * 4};
  }

  // Rows of the last blocks may be made twice, so not where they start from their own results.
  TilePlace place(int64_t block, int64_t row) const {
    const bool whole = args.n - column(block) >= NV * kTileFloats;
    if (Kind::kScaled || !whole || args.init == args.c) return {nullptr, 0};
    return {args.c + row * args.ldc + column(block), args.ldc};
  }

  static constexpr bool weaves(int64_t) { return true; }
  static constexpr int64_t rows_of_a_tile() { return kTileRows; }

  template <class Weave>
  GRU_ALWAYS_INLINE void finish(int64_t block, int64_t row, const float* sums, Weave& weave) const {
    weave.next();
    finish_rows(block, row, kWoven, sums);
  }

  GRU_ALWAYS_INLINE void finish_rows(int64_t block, int64_t row, int64_t rows,
                                     const float* sums) const {
    for (int64_t r = 0; r < rows; ++r) finish_row(block, row + r, sums + r * (NV * kTileFloats));
  }

  GRU_ALWAYS_INLINE void finish_row(int64_t block, int64_t row, const float* sums) const {
    const int64_t left = args.n - column(block);
    float* to = args.c + row * args.ldc + column(block);
    GRU_UNROLL
    for (int g = 0; g < NV; ++g) {
      Vec y = load(sums + g * kTileFloats);
      if constexpr (Kind::kScaled) {
        const auto* scales = reinterpret_cast<const float*>(segment(0, block).head);
        const Ints sum = load_ints(reinterpret_cast<const int32_t*>(sums) + g * kTileFloats);
        const Vec scale = splat(args.a.scale[row]) * load(scales + g * kTileFloats);
        y = fma(to_float(sum), scale, load(start(block, row, g).data));
      }
      if (left > g * kTileFloats) store_columns(to + g * kTileFloats, y, left - g * kTileFloats);
    }
  }
};

template <class Kind, class Weights, int NV>
GRU_NOINLINE void tiled_gemm_blocks(const LowGemmArgs& args, int64_t begin, int64_t end) {
  if (begin == end) return;
  if (args.k > 0 && Kind::pay((end - begin) * args.block_stride, args.m)) {
    multiply_tiles<Kind>(GemmJob<Kind, NV>{args}, begin, end, args.m, false);
  } else {
    run_few<NV>(LowGemmTile<Weights, NV>{args}, begin, end, args.m, false);
  }
}

template <class Kind, class Weights>
static void tiled_gemm(const LowGemmArgs& args) {
  const int64_t vectors = (args.n + kTileFloats - 1) / kTileFloats;
  const int64_t whole = vectors / args.nv;
  const int64_t rest = vectors % args.nv;
  const auto blocks = [&](int64_t nv, int64_t begin, int64_t end) {
    switch (nv) {
      case 1:
        return tiled_gemm_blocks<Kind, Weights, 1>(args, begin, end);
      case 2:
        return tiled_gemm_blocks<Kind, Weights, 2>(args, begin, end);
      case 3:
        return tiled_gemm_blocks<Kind, Weights, 3>(args, begin, end);
      default:
        return tiled_gemm_blocks<Kind, Weights, 4>(args, begin, end);
    }
  };
  blocks(args.nv, 0, whole);
  if (rest != 0) blocks(rest, whole, whole + 1);
}

GRU_END_KERNELS
