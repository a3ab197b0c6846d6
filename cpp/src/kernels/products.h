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

// Whether a tile of this shape may be one of several, whose products come in parts.
constexpr bool comes_in_parts(int blocks, int rows, int nv, int sums) {
  return blocks <= blocks_of_tile(rows_of_tile(sums), nv, sums) && 2 * rows >= rows_of_tile(sums);
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

// What a tile computes at once: its products with k in [begin, end).
struct Part {
  int64_t begin, end;
  bool first, last;
  float* kept;    // [P][R] rows of sums, for what comes after the products of this part
  Coming coming;  // from the first k of the part on
};

// Tiles that compute longer than their weights take to come from L3, so that more can come
// meanwhile.
constexpr bool looks_ahead(int blocks, int rows) { return blocks == 1 && rows > 3; }

// How far ahead tiles of several rows ask for their own weights: floats. A CPU's own look-ahead
// ends with a page, and one stream of memory is all that many rows have.
constexpr int64_t kStreamAhead = 512;

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
    for (int v = 0; R > 1 && v < P * NV; ++v) {
      GRU_PREFETCH_L1(row + v / NV * b.stride + v % NV * V + kStreamAhead);
    }
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

// Calls tile.run<P, R>(block, row, part) with the exact P, then R, that is left.
template <int P, int R, class Tile>
GRU_INLINE void run_exact(const Tile& tile, int64_t block, int64_t row, int blocks, int rows,
                          const Part& part) {
  if (blocks < P) {
    if constexpr (P > 1) run_exact<P - 1, R>(tile, block, row, blocks, rows, part);
  } else if (rows < R) {
    if constexpr (R > 1) run_exact<P, R - 1>(tile, block, row, blocks, rows, part);
  } else {
    tile.template run<P, R>(block, row, part);
  }
}

// Weights of a group that stay in a near cache while several tiles read them, and the rows that
// take turns with those of one part.
constexpr int64_t kGroupBytes = 256 << 10;
constexpr int64_t kPartBytes = 32 << 10;
constexpr int64_t kMostRows = 64;

// In which order blocks are taken, and how many k at once.
struct Groups {
  int64_t begin, end;  // blocks
  bool backwards;
  int64_t part;  // k of a part

  template <int P>
  int64_t count() const {
    return (end - begin + P - 1) / P;
  }
  template <int P>
  int64_t at(int64_t g) const {
    return begin + (backwards ? count<P>() - 1 - g : g) * P;
  }
};

// Some rows with all groups of P blocks, in even tiles of at most R rows. Rows run inside, so that
// every tile but the first reads the weights of a part from a near cache; meanwhile the tiles bring
// the next part near, a vector of each k per tile.
template <int P, int R, int NV, int Sums, class Tile>
GRU_INLINE void run_groups(const Tile& tile, const Groups& groups, int64_t row, int64_t rows) {
  constexpr int V = Vec::kWidth;
  constexpr int kTiles = R < rows_of_tile(Sums) ? 1 : (kMostRows + R - 1) / R;
  alignas(64) float kept[kTiles * P * R * Sums * V];
  const int64_t tiles = (rows + R - 1) / R;
  const Panels b = tile.weights();
  const int64_t depth = tile.depth();
  const bool cut = groups.part < depth;
  for (int64_t g = 0; g < groups.count<P>(); ++g) {
    const int64_t block = groups.at<P>(g);
    const int blocks = static_cast<int>(groups.end - block < P ? groups.end - block : P);
    Part part = {0, 0, true, false, kept, {b.data, 0}};
    do {
      part.end = part.begin + groups.part < depth ? part.begin + groups.part : depth;
      part.last = part.end == depth;
      const bool more = !part.last || g + 1 < groups.count<P>();
      const int64_t length = part.end - part.begin;
      const float* next = part.last ? b.data + groups.at<P>(g + 1) * b.stride
                                    : b.data + block * b.stride + part.end * (NV * V);
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t from = rows * t / tiles;
        const int64_t to = rows * (t + 1) / tiles;
        const bool brings = more && tiles > 1 && t < NV;
        part.kept = kept + (cut ? t * (P * R * Sums * V) : 0);
        part.coming = brings ? Coming{next + t * length * V, V} : Coming{b.data, 0};
        run_exact<P, R>(tile, block, row + from, blocks, static_cast<int>(to - from), part);
      }
      part.begin = part.end;
      part.first = false;
    } while (part.begin < depth);
  }
}

// All rows: at once, or not too many where the products of a group are cut into parts. Tiles whose
// products can't be cut say that they have no k.
template <int P, int R, int NV, int Sums, class Tile>
GRU_INLINE void run_rows(const Tile& tile, int64_t begin, int64_t end, int64_t rows,
                         bool backwards) {
  constexpr int64_t kBytes = P * NV * Vec::kWidth * int64_t{sizeof(float)};  // of a k
  const int64_t depth = tile.depth();
  const bool cut = rows > R && depth * kBytes > kGroupBytes;
  const int64_t parts = cut ? (depth * kBytes + kPartBytes - 1) / kPartBytes : 1;
  const int64_t turns = cut ? (rows + kMostRows - 1) / kMostRows : 1;
  const Groups groups = {begin, end, backwards, (depth + parts - 1) / parts};
  for (int64_t i = 0; i < turns; ++i) {
    const int64_t from = rows * i / turns;
    run_groups<P, R, NV, Sums>(tile, groups, from, rows * (i + 1) / turns - from);
  }
}

// All tiles of blocks [begin, end): NV vectors of weights and `Sums` sums a block and row.
template <int NV, int Sums, class Tile>
GRU_INLINE void run_tiles(const Tile& tile, int64_t begin, int64_t end, int64_t rows,
                          bool backwards = false) {
  constexpr int R = rows_of_tile(Sums);
  switch (rows) {
    case 1:
      return run_rows<blocks_of_tile(1, NV, Sums), 1, NV, Sums>(tile, begin, end, 1, backwards);
    case 2:
      return run_rows<blocks_of_tile(2, NV, Sums), 2, NV, Sums>(tile, begin, end, 2, backwards);
    case 3:
      return run_rows<blocks_of_tile(3, NV, Sums), 3, NV, Sums>(tile, begin, end, 3, backwards);
    default:
      return run_rows<blocks_of_tile(R, NV, Sums), R, NV, Sums>(tile, begin, end, rows, backwards);
  }
}

GRU_END_KERNELS
