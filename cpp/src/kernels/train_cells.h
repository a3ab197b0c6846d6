// SPDX-License-Identifier: MIT
// The elementwise part of training steps: cells forward, keeping what backward needs, and backward.
#pragma once

#include "cells/unit.h"
#include "isa/train_table.h"
#include "kernels/base.h"
#include "kernels/gemm.h"
#include "kernels/slopes.h"
#include "kernels/step.h"

GRU_BEGIN_KERNELS

// One panel of one row: where its slots are, and how many of its units exist.
struct Place {
  float* slots;
  int64_t row, unit, left;
};

template <class Target>
GRU_INLINE void load_peephole(const CellArgs& args, int64_t unit, Target& u) {
  u.has_peephole = args.peephole != nullptr;
  if (!u.has_peephole) return;
  const float* p = args.peephole + unit * 3;
  u.peephole_i = load(p);
  u.peephole_o = load(p + Vec::kWidth);
  u.peephole_f = load(p + 2 * Vec::kWidth);
}

template <class Cell, class Functions, class Slopes>
GRU_INLINE void forward_units(const CellArgs& args, const Place& at) {
  constexpr int V = Vec::kWidth;
  const Functions f{*args.params};
  Unit<Vec> u;
  Vec pre[Cell::kChains];
  GRU_UNROLL
  for (int g = 0; g < Cell::kChains; ++g) pre[g] = load(at.slots + Cell::slot(g) * V);
  u.has_peephole = false;
  if constexpr (Cell::kPeephole) load_peephole(args, at.unit, u);
  const int64_t state = at.row * args.ld_state + at.unit;
  if constexpr (Cell::kReadsH) u.h = load_columns(args.h + state, at.left);
  if constexpr (Cell::kWritesC) {
    u.c = load_columns(args.c + at.row * args.ld_cell + at.unit, at.left);
  } else if constexpr (Cell::kReadsC) {
    u.c = load_columns(args.h + state, at.left);
  }
  if constexpr (Cell::kReadsGate) u.gate = Slopes{*args.params}.gate(load(at.slots + V)).value;
  Cell::update(pre, u, f);
  GRU_UNROLL
  for (int g = 0; g < Cell::kChains; ++g) store(at.slots + Cell::slot(g) * V, u.kept[g]);
  if constexpr (Cell::kWritesC) {
    store_columns(args.c_out + at.row * args.ld_cell + at.unit, u.c, at.left);
  }
  float* h_out = Cell::kWritesGate ? args.reset : args.h_out;
  store_columns(h_out + state, u.h_out, at.left);
}

template <class Cell, class Slopes>
GRU_INLINE void backward_units(const CellArgs& args, const Place& at) {
  constexpr int V = Vec::kWidth;
  const int64_t own = at.row * args.hidden + at.unit;
  const int64_t cell = at.row * args.ld_cell + at.unit;
  Delta<Vec> d;
  GRU_UNROLL
  for (int g = 0; g < Cell::kSlots; ++g) d.slot[g] = load(at.slots + g * V);
  d.dh = load_columns(args.dh + own, at.left);
  if (args.dy != nullptr) {
    d.dh = d.dh + load_columns(args.dy + at.row * args.ldy + at.unit, at.left);
  }
  constexpr bool kOfGru = !Cell::kWritesC && Cell::kSlots > 1;
  if constexpr (kOfGru) d.h = load_columns(args.h + at.row * args.ld_state + at.unit, at.left);
  if constexpr (Cell::kWritesGate) d.dreset = load_columns(args.dreset + own, at.left);
  d.has_peephole = false;
  if constexpr (Cell::kPeephole) load_peephole(args, at.unit, d);
  if constexpr (Cell::kWritesC) {
    d.c = load_columns(args.c + cell, at.left);
    d.c_out = load_columns(args.c_out + cell, at.left);
    d.dc = load_columns(args.dc + cell, at.left);
  }
  Cell::backward(d, Slopes{*args.params});
  GRU_UNROLL
  for (int g = 0; g < Cell::kSlots; ++g) store(at.slots + g * V, d.slot[g]);
  if constexpr (Cell::kWritesC) store_columns(args.dc + cell, d.dc, at.left);
  if constexpr (kOfGru) store_columns(args.dh + own, d.dh, at.left);
}

template <int Slots, class F>
GRU_INLINE void for_each_place(const CellArgs& args, F f) {
  constexpr int V = Vec::kWidth;
  for (int64_t panel = args.panel_begin; panel < args.panel_end; ++panel) {
    float* slots = args.slots + panel * args.panel_stride;
    for (int64_t row = 0; row < args.rows; ++row) {
      f(Place{slots + row * (Slots * V), row, panel * V, args.hidden - panel * V});
    }
  }
}

template <class Cell>
static void cell_forward(const CellArgs& args) {
  if (args.params->standard) {
    for_each_place<Cell::kSlots>(args, [&](const Place& at) {
      forward_units<Cell, StandardFunctions, StandardSlopes>(args, at);
    });
  } else {
    for_each_place<Cell::kSlots>(
        args, [&](const Place& at) { forward_units<Cell, AnyFunctions, AnySlopes>(args, at); });
  }
}

template <class Cell>
static void cell_backward(const CellArgs& args) {
  if (args.params->standard) {
    for_each_place<Cell::kSlots>(
        args, [&](const Place& at) { backward_units<Cell, StandardSlopes>(args, at); });
  } else {
    for_each_place<Cell::kSlots>(
        args, [&](const Place& at) { backward_units<Cell, AnySlopes>(args, at); });
  }
}

static void add_rows(const float* x, int64_t rows, int64_t n, int64_t ld, float* sums) {
  constexpr int V = Vec::kWidth;
  constexpr int kAtOnce = 4;
  int64_t j = 0;
  for (; j + kAtOnce * V <= n; j += kAtOnce * V) {
    Vec s[kAtOnce];
    GRU_UNROLL
    for (int g = 0; g < kAtOnce; ++g) s[g] = load(sums + j + g * V);
    for (int64_t r = 0; r < rows; ++r) {
      GRU_UNROLL
      for (int g = 0; g < kAtOnce; ++g) s[g] = s[g] + load(x + r * ld + j + g * V);
    }
    GRU_UNROLL
    for (int g = 0; g < kAtOnce; ++g) store(sums + j + g * V, s[g]);
  }
  for (; j < n; j += V) {
    const int64_t left = n - j;
    Vec s = load_columns(sums + j, left);
    for (int64_t r = 0; r < rows; ++r) s = s + load_columns(x + r * ld + j, left);
    store_columns(sums + j, s, left);
  }
}

static void add_row_products(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t rows,
                             int64_t n, float* sums) {
  for (int64_t j = 0; j < n; j += Vec::kWidth) {
    const int64_t left = n - j;
    Vec s = load_columns(sums + j, left);
    for (int64_t r = 0; r < rows; ++r) {
      s = fma(load_columns(a + r * lda + j, left), load_columns(b + r * ldb + j, left), s);
    }
    store_columns(sums + j, s, left);
  }
}

GRU_END_KERNELS
