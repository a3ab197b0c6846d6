// SPDX-License-Identifier: MIT
// The wall between loops and memory: everything the engine may ask of a kernel.
//
// Letters: N rows (batch), K inner size, V floats in a vector, G gates, H hidden units, I inputs.
//
// Packed matrices ("panels"). A matrix of `n` columns and `k` rows is cut into blocks of `nv`
// vectors of columns; a block stores, for each row k in turn, its nv*V weights side by side:
//     element (row, col) -> b[block * block_stride + row * (nv * V) + (col - block * nv * V)]
// Columns past `n` are zero. The weights of a recurrent cell are such a matrix with nv = G: the
// column of gate g of unit u is ((u / V) * G + g) * V + u % V, so one block is one panel of V units
// with all its gates, and its rows are the I inputs followed by the K recurrent values.
//
// One number. Every output of `gemm` and every pre-activation of `step` is one chain of fused
// multiply-adds in ascending k that starts from its initial value. The result of a row or column
// depends on no other row or column, on no blocking and on no alignment.
#pragma once

#include <cstdint>

namespace gruengine {

// Elementwise functions of one argument. Those with parameters use alpha and beta as ONNX does.
enum class Function : int32_t {
#define GRU_FUNCTION(name, onnx_name) k##name,
#include "isa/functions.inc"
#undef GRU_FUNCTION
};

enum class Binary : int32_t { kAdd, kSub, kMul, kDiv, kMin, kMax };

// Row reductions. kSumSquare: sum of x*x. kMean divides the sum by n.
enum class Reduce : int32_t { kSum, kMean, kMax, kMin, kSumSquare };

// The recurrent kernels, one per product and update. GRU with the reset gate before the product
// needs two, since the product of the candidate depends on the reset gate of every unit.
enum class StepKind : int32_t {
#define GRU_CELL(name, Cell) k##name,
#include "cells/cells.inc"
#undef GRU_CELL
  kCount
};

struct FunctionSpec {
  Function kind;
  float alpha;
  float beta;
};

// What a cell needs beside its products; the same for every unit and step.
struct CellParams {
  FunctionSpec f;     // gates
  FunctionSpec g;     // candidate (the only one of an RNN)
  FunctionSpec h;     // output of an LSTM
  float clip;         // pre-activations are clamped to [-clip, clip]; 0: not clamped
  bool standard;      // f = sigmoid, g = h = tanh, no clip, not coupled: the fast path may be taken
  bool coupled;       // LSTM: forget gate = 1 - input gate
  bool update_takes;  // GRU: h' = (1 - z) h + z n instead of h' = (1 - z) n + z h
};

struct GemmArgs {
  int64_t m, n, k;
  const float* a;  // [m, k], row stride lda; not aliased by c
  int64_t lda;
  const float* b;        // panels as above, 64-byte aligned
  int64_t block_stride;  // floats from one block to the next
  int32_t nv;            // vectors in a block, 1..4; only the last block of a matrix may hold fewer
                         // vectors than nv: then it is packed with that smaller count
  const float* init;     // initial values, row stride ldi (0: one row for all), whole vectors
                         // readable; nullptr: zeros. May be c itself when ldi == ldc.
  int64_t ldi;
  float* c;  // [m, n], row stride ldc; nothing is written past column n
  int64_t ldc;
};

struct StepArgs {
  int64_t rows;                    // N
  int64_t panel_begin, panel_end;  // panels of V units to compute; others are left alone
  int64_t hidden;                  // H: units past it are never stored
  int64_t input;                   // I, or 0 when z already holds the products with x
  int64_t recurrent;               // K: length of h (H, or the size of a projection)
  const float* x;                  // [N, I], row stride ldx; unused when input == 0
  int64_t ldx;
  const float* h;  // [N, K], row stride ldh: the previous output; never aliases h_out
  int64_t ldh;
  const float* w;        // panels; row 0 is the first used row (of x, or of h if input == 0)
  int64_t panel_stride;  // floats from one panel to the next
  const float* z;        // [N or 1, panels * G * V], row stride ldz (0: one bias row)
  int64_t ldz;
  const float* bias_h;    // [panels * V]: GruAfter: recurrent bias of the candidate; else unused
  const float* peephole;  // [panels][3][V] in the order i, o, f; nullptr: none. LSTM only
  const float* c;         // LSTM: [N, H] previous cell. GruBeforeUpdate: [N, H] previous h
  int64_t ldc;
  float* c_out;  // LSTM: [N, H], may be c itself
  int64_t ldc_out;
  float* h_out;  // [N, H], row stride ldh_out
  int64_t ldh_out;
  float* gate;  // GruBeforeGates writes z here, GruBeforeUpdate reads it: [N, H]
  int64_t ldg;  // (GruBeforeGates writes r * h to h_out)
  const CellParams* params;
  bool backwards;  // panels from the last to the first: the same numbers. When steps
                   // take turns, weights a little larger than a cache stay in it
};

struct LowTable;    // low_table.h: products in bfloat16 and int8
struct TrainTable;  // train_table.h: passes that keep what the backward pass needs

struct KernelTable {
  const char* isa;
  int32_t width;  // V
  void (*gemm)(const GemmArgs&);
  void (*step[static_cast<int>(StepKind::kCount)])(const StepArgs&);
  // y[i] = function(x[i]); y may be x.
  void (*map)(const FunctionSpec&, const float* x, float* y, int64_t n);
  // y[i] = op(a[i * sa], b[i * sb]) with strides 0 or 1; y may be a or b.
  void (*combine)(Binary, const float* a, int64_t sa, const float* b, int64_t sb, float* y,
                  int64_t n);
  // y[r] = reduction of x[r * ld + 0 .. n); the order of the sum depends on n alone. n >= 1.
  void (*reduce)(Reduce, const float* x, int64_t rows, int64_t n, int64_t ld, float* y);
  // Softmax (or its logarithm) over rows of n contiguous values; y may be x.
  void (*softmax)(const float* x, int64_t rows, int64_t n, bool log, float* y);
  // y = (x - mean) / sqrt(var + eps) * scale + shift over rows of n; shift may be nullptr.
  void (*layer_norm)(const float* x, int64_t rows, int64_t n, const float* scale,
                     const float* shift, float eps, float* y);
  const LowTable* low;      // set by dispatch
  const TrainTable* train;  // set by dispatch
};

}  // namespace gruengine
