// SPDX-License-Identifier: MIT
// The tile registers of AMX: 16 rows of 64 bytes each. A product uses 0..3 for its sums, 4 and 5
// for the prepared rows of two blocks, 6 and 7 for weights.
//
// The unit that multiplies tiles falls asleep about 300 ns after its last product and takes nearly
// as long to wake; while it is awake vectors have one multiplier instead of two. So products and
// the updates of cells alternate closely, and short products don't use tiles at all.
#pragma once

#include <immintrin.h>

#include "isa/low_table.h"
#include "kernels/base.h"

GRU_BEGIN_KERNELS

constexpr int kTileRows = 16;
constexpr int kTileBytes = 64;  // of a row
constexpr int kTileFloats = kTileBytes / 4;

// With GCC the register numbers of the intrinsics must be literals.
#if defined(__GNUC__) && !defined(__clang__)
template <int T>
GRU_INLINE void load_tile(const void* p, int64_t stride) {
  __asm__ volatile("{tileloadd\t(%0,%1,1), %%tmm%c2|tileloadd\ttmm%c2, [%0+%1*1]}" ::"r"(p),
                   "r"(stride), "i"(T));
}
template <int T>
GRU_INLINE void store_tile(void* p, int64_t stride) {
  __asm__ volatile("{tilestored\t%%tmm%c2, (%0,%1,1)|tilestored\t[%0+%1*1], tmm%c2}" ::"r"(p),
                   "r"(stride), "i"(T)
                   : "memory");
}
template <int T>
GRU_INLINE void clear_tile() {
  __asm__ volatile("tilezero\t{%%tmm%c0|tmm%c0}" ::"i"(T));
}
template <int C, int A, int B>
GRU_INLINE void multiply_bfloat16() {
  __asm__ volatile(
      "{tdpbf16ps\t%%tmm%c2, %%tmm%c1, %%tmm%c0|tdpbf16ps\ttmm%c0, tmm%c1, tmm%c2}" ::"i"(C),
      "i"(A), "i"(B));
}
GRU_INLINE void load_tile_config(const void* config) {
  // Its intrinsic claims to read 8 of the 64 bytes, and the others would never be written.
  __asm__ volatile("{ldtilecfg\t(%0)|ldtilecfg\t[%0]}" ::"r"(config) : "memory");
}
template <int C, int A, int B>
GRU_INLINE void multiply_int8() {
  __asm__ volatile(
      "{tdpbusd\t%%tmm%c2, %%tmm%c1, %%tmm%c0|tdpbusd\ttmm%c0, tmm%c1, tmm%c2}" ::"i"(C), "i"(A),
      "i"(B));
}
#else
GRU_INLINE void load_tile_config(const void* config) { _tile_loadconfig(config); }
template <int T>
GRU_INLINE void load_tile(const void* p, int64_t stride) {
  _tile_loadd(T, p, static_cast<size_t>(stride));
}
template <int T>
GRU_INLINE void store_tile(void* p, int64_t stride) {
  _tile_stored(T, p, static_cast<size_t>(stride));
}
template <int T>
GRU_INLINE void clear_tile() {
  _tile_zero(T);
}
template <int C, int A, int B>
GRU_INLINE void multiply_bfloat16() {
  _tile_dpbf16ps(C, A, B);
}
template <int C, int A, int B>
GRU_INLINE void multiply_int8() {
  _tile_dpbusd(C, A, B);
}
#endif

// Configures the tiles of this thread while it lives: sums and rows have `rows` rows (1..16). Tiles
// are released at the end, since they would make every switch of threads slower.
class TileScope {
 public:
  explicit TileScope(int rows) {
    struct alignas(64) Config {
      uint8_t palette = 1;
      uint8_t start_row = 0;
      uint8_t reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {};
    } config;
    for (int t = 0; t < 8; ++t) config.rows[t] = static_cast<uint8_t>(t < 6 ? rows : 16);
    load_tile_config(&config);
  }
  ~TileScope() { _tile_release(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

// Tiles take 1.4 cycles for each 64 bytes of weights, however many the rows up to 16, and about
// 1000 cycles to wake the unit.
GRU_INLINE bool tiles_pay(int64_t bytes, double cycles_of_vectors) {
  return (cycles_of_vectors - 1.4) * static_cast<double>(bytes / 64) > 1000.0;
}

// What differs between the products of tiles. Both take 64 bytes of every row at once.
struct Bfloat16Tiles {
  static constexpr bool kScaled = false;
  static constexpr int kMultiple = 32;
  template <int C, int A, int B>
  GRU_INLINE void multiply() {
    multiply_bfloat16<C, A, B>();
  }
  // Whether tiles are faster than vectors for so many bytes of weights and rows. For each 64 bytes
  // vectors take 0.9 cycles and one more for each row; see tiles_pay().
  GRU_INLINE bool pay(int64_t bytes, int64_t rows) {
    return tiles_pay(bytes, 0.9 + static_cast<double>(rows));
  }
};
struct Int8Tiles {
  static constexpr bool kScaled = true;
  static constexpr int kMultiple = 64;
  template <int C, int A, int B>
  GRU_INLINE void multiply() {
    multiply_int8<C, A, B>();
  }
  // Vectors take half a cycle for each row.
  GRU_INLINE bool pay(int64_t bytes, int64_t rows) {
    return tiles_pay(bytes, 0.5 * static_cast<double>(rows));
  }
};

GRU_END_KERNELS
