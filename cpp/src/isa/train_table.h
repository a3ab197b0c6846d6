// SPDX-License-Identifier: MIT
// What training asks of the kernels; behind the wall that isa/table.h describes.
//
// Slots. A recurrent layer keeps S vectors for each panel of V units, step and row:
//     element (slot, unit) of row r -> slots[panel * panel_stride + (r * S + slot) * V + unit % V]
// Between the cells and the backward pass they hold what the cell needs again (its gates), after
// the backward pass the gradients of the pre-activations ("deltas"). So the panels of all steps are
// one matrix that both kinds of product below read as it lies.
#pragma once

#include <cstdint>

#include "isa/table.h"

namespace gruengine {

// c = init + a b. By rows: one chain of fused multiply-adds per element, in ascending k from init.
// By columns: that chain from zero, added to c, and init is c itself or nullptr.
struct ProductArgs {
  int64_t m, n;
  int64_t k;  // of one run
  int64_t runs;
  // by rows:    element (row, run, i) of a is a[run * run_stride + row * lda + i]
  // by columns: element (row, i) of a is a[i * lda + row]; runs == 1
  bool by_columns;
  const float* a;
  int64_t lda, run_stride;
  const float* b;  // panels of runs * k rows and n columns (isa/table.h)
  int64_t block_stride;
  int32_t nv;
  // Element (row, column) of block p of init and c: [p * block + row * ld + column % (nv * V)].
  const float* init;  // nullptr: zeros; ldi 0: one row for all; may be c itself
  int64_t ldi, init_block;
  float* c;
  int64_t ldc, c_block;
};

// One step of some rows and panels of a layer; pointers are those of its first row.
struct CellArgs {
  int64_t rows;
  int64_t panel_begin, panel_end;
  int64_t hidden;  // H
  float* slots;
  int64_t panel_stride;
  const CellParams* params;
  const float* peephole;  // [panels][3][V] in the order i, o, f; nullptr: none. LSTM only
  int64_t ld_state;       // row stride of h, h_out and reset
  const float* h;         // GRU: [rows, H] previous output
  float* h_out;           // forward: [rows, H] output, before any projection
  float* reset;           // GRU with the reset before the product: [rows, H] r * h
  int64_t ld_cell;        // LSTM: row stride of c, c_out and dc
  const float* c;         // LSTM: [rows, H] previous cell
  float* c_out;           // LSTM: [rows, H] cell; forward: out, backward: in
  // Backward. The gradient of h_out is dh + dy.
  const float* dy;  // [rows, H], row stride ldy; nullptr: zeros
  int64_t ldy;
  float* dh;  // [rows, H], row stride H; GRU: replaced by the part that h gets without a product
  float* dc;  // LSTM: [rows, H]: gradient of the cell, replaced by that of c
  float* dreset;  // GruBefore: [rows, H], row stride H: gradient of r * h
};

// Updates of n parameters by their gradients, each scaled by `scale` first.
struct UpdateArgs {
  int64_t n;
  float* w;
  const float* g;
  float* m;  // momentum or first moment; nullptr where the rule has none
  float* v;  // second moment; nullptr where the rule has none
  float scale;
  float rate;   // Adam: with 1 / (1 - beta1^t) in it
  float beta1;  // momentum; Adam: 1 - beta1
  float beta2;  // SGD: 1 - dampening; else the decay of the second moment
  float rest2;  // 1 - beta2
  float eps;
  float decay;       // weight decay: added to the gradient, or, decoupled, taken from the weight
  float correction;  // Adam: 1 / sqrt(1 - beta2^t)
  bool decoupled, nesterov;
};

enum class UpdateRule : int32_t { kSgd, kRmsprop, kAdam, kCount };

struct TrainTable {
  void (*product)(const ProductArgs&);
  void (*cell_forward[static_cast<int>(StepKind::kCount)])(const CellArgs&);
  void (*cell_backward[static_cast<int>(StepKind::kCount)])(const CellArgs&);
  // sums[j] += x[r * ld + j] over all rows, in ascending order.
  void (*add_rows)(const float* x, int64_t rows, int64_t n, int64_t ld, float* sums);
  // sums[j] += a[r * lda + j] * b[r * ldb + j].
  void (*add_row_products)(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t rows,
                           int64_t n, float* sums);
  // As gruengine/training_math.h says; dx may be x.
  void (*cross_entropy)(const float* x, int64_t rows, int64_t n, const int64_t* target,
                        const float* weight, int64_t ignored, float* losses, float* dx);
  void (*update[static_cast<int>(UpdateRule::kCount)])(const UpdateArgs&);
};

}  // namespace gruengine
