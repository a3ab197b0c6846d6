// SPDX-License-Identifier: MIT
// The products of training: c = init + a b with a in runs of columns, or transposed.
#pragma once

#include "isa/train_table.h"
#include "kernels/base.h"
#include "kernels/gemm.h"
#include "kernels/products.h"

#if defined(__GNUC__)
#define GRU_PREFETCH_WRITE(p) __builtin_prefetch(p, 1, 3)
#else
#define GRU_PREFETCH_WRITE(p) ((void)(p))
#endif

GRU_BEGIN_KERNELS

// Panels of so many floats stay in the first cache while all rows go by.
constexpr int64_t kNearFloats = 10 << 10;

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

// tile += what it is to be added to; see write_edge().
GRU_NOINLINE void add_edge(Edge to, int64_t left, int rows, int vectors, float* tile) {
  for (int r = 0; r < rows; ++r) {
    for (int64_t at = 0; at < vectors * Vec::kWidth; at += Vec::kWidth) {
      if (at < left) {
        store(tile, load_columns(to.data + r * to.ld + at, left - at) + load(tile));
      }
      tile += Vec::kWidth;
    }
  }
}

// Rows of a tile whose a comes in columns: those of one panel of deltas go by in even tiles.
constexpr int rows_of_columns(int nv) {
  int rows = 1;
  while (rows < 8 && fits(1, rows + 1, nv)) ++rows;
  return rows;
}

// Some of the k of a product, in runs.
struct Chunk {
  const float *a, *b;  // b of the first block
  int64_t k, runs;
  const float* init;  // of the first block and row
  int64_t ldi, init_block;
};

template <int NV, bool ByColumns>
struct ProductTile {
  const ProductArgs& args;
  Chunk chunk;
  int64_t block;

  // f(p, r, g) for each vector of a tile.
  template <int P, int R, class F>
  void each(F f) const {
    GRU_UNROLL
    for (int p = 0; p < P; ++p) {
      GRU_UNROLL
      for (int r = 0; r < R; ++r) {
        GRU_UNROLL
        for (int g = 0; g < NV; ++g) f(p, r, g);
      }
    }
  }

  template <int P, int R>
  void run(int64_t row, Coming coming) const {
    constexpr int V = Vec::kWidth;
    Vec sums[P][R][NV];
    const int64_t left = args.n - block * (args.nv * V);
    const bool whole = left >= P * NV * V;
    float* c = args.c + block * args.c_block + row * args.ldc;
    const bool adds = ByColumns && chunk.init != nullptr;
    start<P, R>(sums, row, left, whole);
    if (adds) prefetch<P, R>(c);
    const Panels b = {chunk.b, args.block_stride};
    if constexpr (ByColumns) {
      add_column_products<P, R, NV>(sums, chunk.a + row, args.lda, b, chunk.k);
    } else {
      Panels at = b;
      const float* a = chunk.a + row * args.lda;
      for (int64_t j = 0; j < chunk.runs; ++j) {
        add_products<P, R, NV>(sums, {a, args.lda}, at, coming, chunk.k, [](int g) { return g; });
        a += args.run_stride;
        at.data += chunk.k * (NV * V);
        coming = coming.after(chunk.k);
      }
    }
    if (!whole) return finish_edge<P, R>(sums, left, c, adds);
    each<P, R>([&](int p, int r, int g) {
      float* to = c + p * args.c_block + r * args.ldc + g * V;
      store(to, adds ? load(to) + sums[p][r][g] : sums[p][r][g]);
    });
  }

  // Through memory, for every shape of tiles shares the code for columns past the last one.
  template <int P, int R>
  void finish_edge(const Vec (&sums)[P][R][NV], int64_t left, float* c, bool adds) const {
    constexpr int V = Vec::kWidth;
    alignas(64) float edge[P * R * NV * V];
    each<P, R>(
        [&](int p, int r, int g) { store(edge + ((p * R + r) * NV + g) * V, sums[p][r][g]); });
    for (int p = 0; p < P; ++p, left -= NV * V) {
      float* to = c + p * args.c_block;
      float* part = edge + p * (R * NV * V);
      if (adds) add_edge({to, args.ldc}, left, R, NV, part);
      write_edge(part, left, R, NV, to, args.ldc);
    }
  }

  // Sums of columns start from zero and are added at the end, when c has come from afar.
  template <int P, int R>
  void prefetch(const float* c) const {
    each<P, R>([&](int p, int r, int g) {
      GRU_PREFETCH_WRITE(c + p * args.c_block + r * args.ldc + g * Vec::kWidth);
    });
  }

  template <int P, int R>
  void start(Vec (&sums)[P][R][NV], int64_t row, int64_t left, bool whole) const {
    each<P, R>([&](int p, int r, int g) { sums[p][r][g] = splat(0.0f); });
    if (ByColumns || chunk.init == nullptr) return;
    const float* init = chunk.init + row * chunk.ldi;
    if (whole) {
      each<P, R>([&](int p, int r, int g) {
        sums[p][r][g] = load(init + p * chunk.init_block + r * chunk.ldi + g * Vec::kWidth);
      });
      return;
    }
    alignas(64) float edge[P * R * NV * Vec::kWidth];
    for (int p = 0; p < P; ++p, left -= NV * Vec::kWidth) {
      read_edge({init + p * chunk.init_block, chunk.ldi}, left, R, NV,
                edge + p * (R * NV * Vec::kWidth));
    }
    each<P, R>([&](int p, int r, int g) {
      sums[p][r][g] = load(edge + ((p * R + r) * NV + g) * Vec::kWidth);
    });
  }
};

template <int P, int R, class Tile>
GRU_INLINE void run_product_tile(const Tile& tile, int blocks, int rows, int64_t row,
                                 Coming coming) {
  if (blocks < P) {
    if constexpr (P > 1) run_product_tile<P - 1, R>(tile, blocks, rows, row, coming);
  } else if (rows < R) {
    if constexpr (R > 1) run_product_tile<P, R - 1>(tile, blocks, rows, row, coming);
  } else {
    tile.template run<P, R>(row, coming);
  }
}

// All rows with one chunk of some blocks; meanwhile the tiles bring what comes next near.
template <int P, int R, int NV, bool ByColumns>
GRU_INLINE void product_rows(const ProductArgs& args, const Chunk& chunk, int64_t block, int blocks,
                             const float* next) {
  const ProductTile<NV, ByColumns> tile = {args, chunk, block};
  const int64_t tiles = (args.m + R - 1) / R;
  const int64_t k = chunk.k * chunk.runs;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t from = args.m * t / tiles;
    const int64_t to = args.m * (t + 1) / tiles;
    Coming coming = {chunk.b, 0};
    if (next != nullptr && t < NV) coming = {next + t * k * Vec::kWidth, Vec::kWidth};
    run_product_tile<P, R>(tile, blocks, static_cast<int>(to - from), from, coming);
  }
}

template <int NV, bool ByColumns>
GRU_INLINE void product_blocks(const ProductArgs& args, int64_t begin, int64_t end) {
  constexpr int P = ByColumns || NV >= 3 ? 1 : 4 / NV;
  constexpr int R = ByColumns ? rows_of_columns(NV) : rows_of_tile(NV);
  constexpr int64_t kColumns = NV * Vec::kWidth;
  // What is cut: one run, or the list of runs.
  const bool one = args.runs == 1;
  const int64_t parts = one ? args.k : args.runs;
  const int64_t per_part = P * kColumns * (one ? 1 : args.k);
  const bool whole = ByColumns || args.m <= R || parts < 1;
  int64_t chunks = whole ? 1 : (parts * per_part + kNearFloats - 1) / kNearFloats;
  if (!whole && chunks > parts) chunks = parts;
  for (int64_t block = begin; block < end; block += P) {
    const int blocks = static_cast<int>(end - block < P ? end - block : P);
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t first = parts * i / chunks, last = parts * (i + 1) / chunks;
      const int64_t row = one ? first : first * args.k;  // of b
      const float* b = args.b + block * args.block_stride;
      Chunk chunk = {args.a + (one ? first : first * args.run_stride),
                     b + row * kColumns,
                     one ? last - first : args.k,
                     one ? 1 : last - first,
                     args.init == nullptr ? nullptr : args.init + block * args.init_block,
                     args.ldi,
                     args.init_block};
      if (i > 0) {  // the chain goes on from where the last chunk left it
        chunk.init = args.c + block * args.c_block;
        chunk.ldi = args.ldc;
        chunk.init_block = args.c_block;
      }
      const float* next = i + 1 < chunks    ? b + last * (one ? 1 : args.k) * kColumns
                          : block + P < end ? b + P * args.block_stride
                                            : nullptr;
      product_rows<P, R, NV, ByColumns>(args, chunk, block, blocks, next);
    }
  }
}

template <int NV>
GRU_INLINE void product_with(const ProductArgs& args, int64_t begin, int64_t end) {
  if (args.by_columns) {
    product_blocks<NV, true>(args, begin, end);
  } else {
    product_blocks<NV, false>(args, begin, end);
  }
}

GRU_INLINE void product_blocks_of(int nv, const ProductArgs& args, int64_t begin, int64_t end) {
  switch (nv) {
    case 1:
      return product_with<1>(args, begin, end);
    case 2:
      return product_with<2>(args, begin, end);
    case 3:
      return product_with<3>(args, begin, end);
    default:
      return product_with<4>(args, begin, end);
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
