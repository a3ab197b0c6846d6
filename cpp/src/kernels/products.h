// SPDX-License-Identifier: MIT
// The one inner loop: a tile of P blocks x R rows x NV vectors of sums, held in registers.
//
// Every sum is one chain in ascending k. What keeps the pipes busy is the number of sums at once,
// so a single row takes several blocks (several memory streams), many rows take one.
#pragma once

#include "kernels/base.h"

GRU_BEGIN_KERNELS

// Blocks of nv vectors taken at once: by a single row, and by tiles of rows (about 4 vectors).
constexpr int blocks_of_one_row(int nv) { return (Vec::kChains + nv - 1) / nv; }
constexpr int blocks_of_rows(int nv) { return nv >= 3 ? 1 : 4 / nv; }

// Rows of a tile: sums, one broadcast value a row and one vector of weights fit the registers.
constexpr int rows_of_tile(int sums) { return (Vec::kRegisters - 1) / (sums + 1); }

// Tile sizes to try after `blocks` when fewer are left: 8 4 2 1, 6 3 2 1, 3 2 1.
constexpr int smaller(int blocks) { return blocks == 3 ? 2 : blocks / 2; }

struct Rows {
  const float* data;
  int64_t stride;
};

struct Panels {
  const float* data;
  int64_t stride;  // floats from one block to the next
};

// sums[p][r][chain(g)] += a[r][0..k) * b[p][0..k)[g] for g < NV.
template <int P, int R, int NV, int CH, class Chain>
GRU_INLINE void add_products(Vec (&sums)[P][R][CH], Rows a, Panels b, int64_t k, Chain chain) {
  constexpr int V = Vec::kWidth;
  for (int64_t i = 0; i < k; ++i) {
    Vec x[R];
    GRU_UNROLL
    for (int r = 0; r < R; ++r) x[r] = splat(a.data[r * a.stride + i]);
    const float* row = b.data + i * (NV * V);
    GRU_UNROLL
    for (int p = 0; p < P; ++p) {
      GRU_UNROLL
      for (int g = 0; g < NV; ++g) {
        const Vec w = load(row + p * b.stride + g * V);
        GRU_UNROLL
        for (int r = 0; r < R; ++r) sums[p][r][chain(g)] = fma(x[r], w, sums[p][r][chain(g)]);
      }
    }
  }
}

// Calls tile.run<P, R>(block, row) over all blocks and rows. Rows run inside, so that the weights
// of a block are read from the nearest cache for every tile but the first.
template <int P, int R, class Tile>
GRU_INLINE void run_tile_of(const Tile& tile, int64_t block, int64_t row, int rows) {
  if (rows == R) {
    tile.template run<P, R>(block, row);
  } else if constexpr (R > 1) {
    run_tile_of<P, R - 1>(tile, block, row, rows);
  }
}

template <int P, int RMax, class Tile>
GRU_INLINE void run_blocks(const Tile& tile, int64_t begin, int64_t end, int64_t rows) {
  const int64_t tiles = (rows + RMax - 1) / RMax;
  int64_t block = begin;
  for (; block + P <= end; block += P) {
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t from = rows * t / tiles;
      const int64_t to = rows * (t + 1) / tiles;
      run_tile_of<P, RMax>(tile, block, from, static_cast<int>(to - from));
    }
  }
  if constexpr (P > 1) run_blocks<smaller(P), RMax>(tile, block, end, rows);
}

template <int NV, int Sums, class Tile>
GRU_INLINE void run_tiles(const Tile& tile, int64_t begin, int64_t end, int64_t rows) {
  if (rows == 1) {
    run_blocks<blocks_of_one_row(NV), 1>(tile, begin, end, 1);
  } else {
    constexpr int P = blocks_of_rows(NV);
    run_blocks<P, rows_of_tile(P * Sums)>(tile, begin, end, rows);
  }
}

GRU_END_KERNELS
