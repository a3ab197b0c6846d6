// SPDX-License-Identifier: MIT
// Products of the compute types below float32. Cells, states and everything else stay float32.
//
// Letters as in table.h. A product of m rows of k floats with a matrix goes in two steps: `prepare`
// brings the rows into the form the kernels read, `gemm` or `step` multiplies.
//
// Blocks. As in table.h a matrix is cut into blocks of C = nv * V columns. A block stores
//     int8 only: float scale[C], the value of 1 in each column;
//                int32 start[C], what every sum starts from: -zero_point * (sum of the column)
//     the weights in groups of `group` rows (int8: 4, bfloat16: 2) that fill 32 bits:
//         element (row, col) of the block -> at [(row / group) * C + col][row % group]
// Rows past k, up to round_up(k, multiple), and columns past n are zero. A panel of a recurrent
// cell is the block of its I input rows followed by the block of its K recurrent rows.
//
// bfloat16. Rows and weights are rounded to the nearest bfloat16 (ties to even). Every output is a
// chain of float32 additions in ascending k from its initial value; the order inside one output
// depends on the instruction set and on k alone.
//
// Two parts (bfloat16 with terms = 3). Values are sums of a high and a low bfloat16. A prepared row
// is [high, low], each of round_up(k, multiple) values, and a block has the high parts of its rows,
// then the low ones. Products of two low parts are left out; the order of the others depends on the
// instruction set alone.
//
// int8. Weights lie in [-127, 127], with a scale for each column. A row is prepared to integers in
// [-127, 127] plus `zero_point`: scale = max(range, largest |value|) / 127. The sum S of the
// products of the integers is exact, so it is the same on every instruction set; then
//     output = fma(float(S), scale of row * scale of column, initial value)
// and a step adds first the part of x, then that of h. A row that holds an infinity or NaN has the
// scale NaN, and so have its outputs.
//
// int4. Weights lie in [-7, 7], with a bfloat16 scale for each column of each section of 32 rows. A
// block stores
//     bfloat16 scale[sections][C];
//     weights plus 8, rows i and i + 4 of eight in the low and the high half of a byte:
//         element (row, col) -> half (row % 8) / 4 of byte at [(row / 8) * C + col][row % 4]
// A row is prepared as for int8, to signed integers, and -8 * (sum of the section) for each section
// behind them. For each section in turn, with the exact sum S of its products,
//     output = fma(float(S), scale of row * scale of column, output)
#pragma once

#include <cstdint>

#include "isa/table.h"

namespace gruengine {

// Rows made by `prepare`.
struct LowRows {
  const void* data;    // 64-byte aligned
  int64_t stride;      // bytes from one row to the next, a multiple of 64
  const float* scale;  // [rows]; int8 only
};

struct PrepareArgs {
  int64_t rows, k;
  const float* from;  // [rows, k], row stride ld
  int64_t ld;
  float range;        // int8: the least that the largest |value| counts as; 0: none
  void* to;           // [rows] of round_up(k, multiple) values, row stride `stride` bytes
  int64_t stride;     // bytes, a multiple of 64
  float* scale;       // [rows]; int8 only
  int32_t terms = 1;  // 3: two parts
};

struct LowGemmArgs {
  int64_t m, n, k;
  LowRows a;
  const void* b;         // blocks as above, 64-byte aligned
  int64_t block_stride;  // bytes from one block to the next
  int32_t nv;            // as in GemmArgs
  const float* init;     // as in GemmArgs
  int64_t ldi;
  float* c;  // as in GemmArgs
  int64_t ldc;
  int32_t terms = 1;  // 3: two parts
};

struct LowStepArgs {
  StepArgs cell;         // all but x, ldx, w and panel_stride
  LowRows x;             // unused when cell.input == 0
  LowRows h;             // cell.h, prepared
  const void* w;         // panels; when cell.input == 0, the first block of recurrent rows
  int64_t panel_stride;  // bytes from one panel to the next
  int32_t terms = 1;     // 3: two parts
};

struct LowKernels {
  int32_t group;         // rows of a matrix side by side: 4 or 2
  int32_t multiple;      // rows of a block are padded to a multiple of it
  int32_t value_bytes;   // of a prepared value
  int32_t weight_bytes;  // of a weight
  int32_t zero_point;    // added to prepared int8 values
  bool scaled;           // blocks start with scales and starts (int8)
  void (*prepare)(const PrepareArgs&);
  void (*gemm)(const LowGemmArgs&);
  void (*step[static_cast<int>(StepKind::kCount)])(const LowStepArgs&);
  int32_t section = 0;  // int4: rows of a block that share scales; such kernels have no steps
};

struct LowTable {
  LowKernels bfloat16;
  LowKernels int8;
  LowKernels int4;
};

inline int64_t padded_rows(const LowKernels& low, int64_t k) {
  return (k + low.multiple - 1) / low.multiple * low.multiple;
}

// Bytes of a block of `columns` columns (whole vectors) and k rows.
inline int64_t block_bytes(const LowKernels& low, int64_t k, int64_t columns) {
  if (low.section > 0) {
    const int64_t sections = padded_rows(low, k) / low.section;
    return sections * columns * (2 + low.section / 2);
  }
  const int64_t head = low.scaled ? columns * 8 : 0;
  return head + padded_rows(low, k) * columns * low.weight_bytes;
}

// Bytes from one prepared row of k values to the next.
inline int64_t prepared_stride(const LowKernels& low, int64_t k) {
  const int64_t starts = low.section > 0 ? padded_rows(low, k) / low.section * 4 : 0;
  return (padded_rows(low, k) * low.value_bytes + starts + 63) / 64 * 64;
}

}  // namespace gruengine
