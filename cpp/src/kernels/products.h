// SPDX-License-Identifier: MIT
// The one inner loop: a tile of P blocks x R rows x NV vectors of sums, held in registers.
//
// Every sum is one chain in ascending k. What keeps the pipes busy is the number of sums at once,
// so a single row takes several blocks (several memory streams), many rows take one.
#pragma once

#include "kernels/base.h"

GRU_BEGIN_KERNELS

// The part of a vector that lies before column n.
GRU_INLINE Vec load_columns(const float* p, int64_t left) {
  return left >= Vec::kWidth ? load(p) : load_first(p, static_cast<int>(left), 0.0f);
}
GRU_INLINE void store_columns(float* p, Vec a, int64_t left) {
  if (left >= Vec::kWidth) {
    store(p, a);
  } else {
    store_first(p, a, static_cast<int>(left));
  }
}

// Tiles are held in registers: the sums, one broadcast value a row and one vector of weights.
constexpr bool fits(int blocks, int rows, int sums) {
  return blocks * rows * sums + rows + 1 <= Vec::kRegisters;
}

// Rows of a tile when there are many: as many as fit beside about four vectors of sums.
constexpr int rows_of_tile(int sums) {
  const int blocks = sums >= 3 ? 1 : 4 / sums;
  int rows = 1;
  while (fits(blocks, rows + 1, sums)) ++rows;
  return rows;
}

// Blocks taken at once by tiles of so many rows: enough sums to fill the pipes if they fit, from no
// more than eight streams of memory.
constexpr int blocks_of_tile(int rows, int nv, int sums) {
  int blocks = 1;
  while (blocks < 8 && blocks * nv < Vec::kChains && blocks * rows * nv < 24 &&
         fits(blocks + 1, rows, sums)) {
    ++blocks;
  }
  return blocks;
}

struct Rows {
  const float* data;
  int64_t stride;
};

struct Panels {
  const float* data;
  int64_t stride;  // floats from one block to the next
};

// Weights to bring near during a tile: a vector for each k, `step` floats apart (0: none).
struct Coming {
  const float* data;
  int64_t step;
  Coming after(int64_t k) const { return {data + k * step, step}; }
};

// Which vector of each k of which block a tile should bring near; part < 0: none.
struct Ahead {
  int64_t block, part;
  // `rows` is how many k a block has.
  Coming of(Panels b, int64_t rows) const {
    if (part < 0) return {b.data, 0};
    return {b.data + block * b.stride + part * rows * Vec::kWidth, Vec::kWidth};
  }
};

// Tiles that compute longer than their weights take to come from L3, so that more can come
// meanwhile.
constexpr bool looks_ahead(int blocks, int rows) { return blocks == 1 && rows > 3; }

// sums[p][r][chain(g)] += a[r][0..k) * b[p][0..k)[g] for g < NV.
template <int P, int R, int NV, int CH, class Chain>
GRU_INLINE void add_products(Vec (&sums)[P][R][CH], Rows a, Panels b, Coming coming, int64_t k,
                             Chain chain) {
  constexpr int V = Vec::kWidth;
  for (int64_t i = 0; i < k; ++i) {
    Vec x[R];
    GRU_UNROLL
    for (int r = 0; r < R; ++r) x[r] = splat(a.data[r * a.stride + i]);
    const float* row = b.data + i * (NV * V);
    if constexpr (looks_ahead(P, R)) GRU_PREFETCH_L2(coming.data + i * coming.step);
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

// Calls tile.run<P, R>(block, row) with the exact P, then R, that is left.
template <int P, int R, class Tile>
GRU_INLINE void run_exact(const Tile& tile, int64_t block, int64_t row, int blocks, int rows,
                          Ahead ahead) {
  if (blocks < P) {
    if constexpr (P > 1) run_exact<P - 1, R>(tile, block, row, blocks, rows, ahead);
  } else if (rows < R) {
    if constexpr (R > 1) run_exact<P, R - 1>(tile, block, row, blocks, rows, ahead);
  } else {
    tile.template run<P, R>(block, row, ahead);
  }
}

// All blocks in groups of P, and for each all rows in even tiles of at most R. Rows run inside, so
// that every tile but the first reads the weights of a group from a near cache; meanwhile the tiles
// bring the next group near, a vector of each k per tile.
template <int P, int R, int NV, class Tile>
GRU_INLINE void run_groups(const Tile& tile, int64_t begin, int64_t end, int64_t rows,
                           bool backwards) {
  const int64_t tiles = (rows + R - 1) / R;
  const int64_t groups = (end - begin + P - 1) / P;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t block = begin + (backwards ? groups - 1 - g : g) * P;
    const int blocks = static_cast<int>(end - block < P ? end - block : P);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t from = rows * t / tiles;
      const int64_t to = rows * (t + 1) / tiles;
      const bool more = tiles > 1 && t < NV && g + 1 < groups;
      run_exact<P, R>(tile, block, from, blocks, static_cast<int>(to - from),
                      {backwards ? block - P : block + P, more ? t : -1});
    }
  }
}

// All tiles of blocks [begin, end): NV vectors of weights and `Sums` sums a block and row.
template <int NV, int Sums, class Tile>
GRU_INLINE void run_tiles(const Tile& tile, int64_t begin, int64_t end, int64_t rows,
                          bool backwards = false) {
  constexpr int R = rows_of_tile(Sums);
  switch (rows) {
    case 1:
      return run_groups<blocks_of_tile(1, NV, Sums), 1, NV>(tile, begin, end, 1, backwards);
    case 2:
      return run_groups<blocks_of_tile(2, NV, Sums), 2, NV>(tile, begin, end, 2, backwards);
    case 3:
      return run_groups<blocks_of_tile(3, NV, Sums), 3, NV>(tile, begin, end, 3, backwards);
    default:
      return run_groups<blocks_of_tile(R, NV, Sums), R, NV>(tile, begin, end, rows, backwards);
  }
}

GRU_END_KERNELS
