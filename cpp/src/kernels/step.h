// SPDX-License-Identifier: MIT
// One step of a recurrent layer: products with x and h, then the cell, for V units at a time.
#pragma once

#include "cells/unit.h"
#include "kernels/base.h"
#include "kernels/functions.h"
#include "kernels/products.h"

GRU_BEGIN_KERNELS

// The activations nearly every model has, known at compile time.
struct StandardFunctions {
  static constexpr bool kSideBySide = true;
  const CellParams& params;
  // clang-format off
  template <class V> GRU_ALWAYS_INLINE V gate(const V& x) const { return sigmoid(x); }
  template <class V> GRU_ALWAYS_INLINE V candidate(const V& x) const { return tanh(x); }
  template <class V> GRU_ALWAYS_INLINE V output(const V& x) const { return tanh(x); }
  template <class V> static V kept(const V&, const V& value) { return value; }
  // clang-format on
  static constexpr bool coupled() { return false; }
  bool update_takes() const { return params.update_takes; }
};

// Any activations, chosen for each vector; pre-activations are clipped.
struct AnyFunctions {
  static constexpr bool kSideBySide = false;
  const CellParams& params;
  Vec clip(Vec x) const {
    if (params.clip == 0.0f) return x;
    return max(splat(-params.clip), min(splat(params.clip), x));
  }
  Vec gate(Vec x) const { return evaluate_any(params.f, clip(x)); }
  Vec candidate(Vec x) const { return evaluate_any(params.g, clip(x)); }
  Vec output(Vec x) const { return evaluate_any(params.h, x); }
  static Vec kept(Vec before, Vec) { return before; }
  bool coupled() const { return params.coupled; }
  bool update_takes() const { return params.update_takes; }
};

template <class Cell, class Functions>
GRU_INLINE void update_units(const StepArgs& args, int64_t panel, int64_t row, const Vec* pre,
                             const Functions& functions) {
  constexpr int V = Vec::kWidth;
  const int64_t unit = panel * V;
  const int64_t left = args.hidden - unit;
  Unit<Vec> u;
  if constexpr (Cell::kReadsH) u.h = load_columns(args.h + row * args.ldh + unit, left);
  if constexpr (Cell::kReadsC) u.c = load_columns(args.c + row * args.ldc + unit, left);
  if constexpr (Cell::kReadsGate) u.gate = load_columns(args.gate + row * args.ldg + unit, left);
  u.has_peephole = false;
  if constexpr (Cell::kPeephole) {
    if (args.peephole != nullptr) {
      const float* p = args.peephole + unit * 3;
      u.has_peephole = true;
      u.peephole_i = load(p);
      u.peephole_o = load(p + V);
      u.peephole_f = load(p + 2 * V);
    }
  }
  Cell::update(pre, u, functions);
  if constexpr (Cell::kWritesC) store_columns(args.c_out + row * args.ldc_out + unit, u.c, left);
  if constexpr (Cell::kWritesGate) store_columns(args.gate + row * args.ldg + unit, u.gate, left);
  store_columns(args.h_out + row * args.ldh_out + unit, u.h_out, left);
}

// Whether update_rows() may be taken.
GRU_INLINE bool whole_units(const StepArgs& args, int64_t panel) {
  return (panel + 1) * Vec::kWidth <= args.hidden && args.peephole == nullptr;
}

// The units of N rows from `row` side by side.
template <class Cell, int N, class Functions>
GRU_INLINE void update_rows(const StepArgs& args, int64_t panel, int64_t row,
                            const Many<Vec, N>* pre, const Functions& functions) {
  const int64_t unit = panel * Vec::kWidth;
  const auto rows = [&](const float* from, int64_t ld) {
    Many<Vec, N> x;
    GRU_UNROLL
    for (int i = 0; i < N; ++i) x.v[i] = load(from + i * ld);
    return x;
  };
  const auto keep = [&](float* to, int64_t ld, const Many<Vec, N>& x) {
    GRU_UNROLL
    for (int i = 0; i < N; ++i) store(to + i * ld, x.v[i]);
  };
  Unit<Many<Vec, N>> u;
  if constexpr (Cell::kReadsH) u.h = rows(args.h + row * args.ldh + unit, args.ldh);
  if constexpr (Cell::kReadsC) u.c = rows(args.c + row * args.ldc + unit, args.ldc);
  if constexpr (Cell::kReadsGate) u.gate = rows(args.gate + row * args.ldg + unit, args.ldg);
  u.has_peephole = false;
  Cell::update(pre, u, functions);
  if constexpr (Cell::kWritesC) keep(args.c_out + row * args.ldc_out + unit, args.ldc_out, u.c);
  if constexpr (Cell::kWritesGate) keep(args.gate + row * args.ldg + unit, args.ldg, u.gate);
  keep(args.h_out + row * args.ldh_out + unit, args.ldh_out, u.h_out);
}

constexpr int kRowsAtOnce = 4;

// Out of line, so that the common path stays small: pre is [P][R][kChains] vectors.
template <class Cell, class Functions>
GRU_NOINLINE void update_tile(const StepArgs& args, int64_t panel, int64_t row, int panels,
                              int rows, const float* pre) {
  const Functions functions = {*args.params};
  for (int p = 0; p < panels; ++p) {
    int r = 0;
    if constexpr (Functions::kSideBySide) {
      const bool whole = whole_units(args, panel + p);
      for (; whole && r + kRowsAtOnce <= rows; r += kRowsAtOnce) {
        Many<Vec, kRowsAtOnce> sums[Cell::kChains];
        GRU_UNROLL
        for (int i = 0; i < kRowsAtOnce; ++i) {
          GRU_UNROLL
          for (int g = 0; g < Cell::kChains; ++g) {
            sums[g].v[i] = load(pre);
            pre += Vec::kWidth;
          }
        }
        update_rows<Cell>(args, panel + p, row + r, sums, functions);
      }
    }
    for (; r < rows; ++r) {
      Vec sums[Cell::kChains];
      GRU_UNROLL
      for (int g = 0; g < Cell::kChains; ++g) {
        sums[g] = load(pre);
        pre += Vec::kWidth;
      }
      update_units<Cell>(args, panel + p, row + r, sums, functions);
    }
  }
}

template <class Cell>
struct StepTile {
  const StepArgs& args;
  bool standard;

  int64_t depth() const { return args.input + args.recurrent; }
  Panels weights() const { return {args.w, args.panel_stride}; }

  template <int P, int R>
  void run(int64_t panel, int64_t row, const Part& part) const {
    constexpr int V = Vec::kWidth;
    constexpr int G = Cell::kGates;
    Vec sums[P][R][Cell::kChains];
    if (!comes_in_parts(P, R, G, Cell::kChains) || part.first) {
      start(sums, panel, row);
    } else {
      each<P, R>([&](int p, int r, int g, int64_t at) { sums[p][r][g] = load(part.kept + at); });
    }
    const float* w = args.w + panel * args.panel_stride + part.begin * (G * V);
    // The k of x come first, those of h follow.
    const int64_t of_x = part.begin < args.input ? part.begin : args.input;
    const int64_t of_h = part.begin - of_x;
    const int64_t inputs = (part.end < args.input ? part.end : args.input) - of_x;
    const int64_t states = part.end - part.begin - inputs;
    add_products<P, R, G>(sums, {args.x + row * args.ldx + of_x, args.ldx}, {w, args.panel_stride},
                          part.coming, inputs, [](int g) { return g; });
    add_products<P, R, G>(sums, {args.h + row * args.ldh + of_h, args.ldh},
                          {w + inputs * (G * V), args.panel_stride}, part.coming.after(inputs),
                          states, [](int g) { return Cell::recurrent_chain(g); });
    if (R == 1 && standard) {
      GRU_UNROLL
      for (int p = 0; p < P; ++p) {
        update_units<Cell>(args, panel + p, row, sums[p][0], StandardFunctions{*args.params});
      }
      return;
    }
    each<P, R>([&](int p, int r, int g, int64_t at) { store(part.kept + at, sums[p][r][g]); });
    if (part.last) finish(panel, row, P, R, part.kept);
  }

  // f(p, r, g, at) for each vector of a tile, and where it is kept.
  template <int P, int R, class F>
  static void each(F f) {
    GRU_UNROLL
    for (int p = 0; p < P; ++p) {
      GRU_UNROLL
      for (int r = 0; r < R; ++r) {
        GRU_UNROLL
        for (int g = 0; g < Cell::kChains; ++g) {
          f(p, r, g, ((p * R + r) * Cell::kChains + g) * int64_t{Vec::kWidth});
        }
      }
    }
  }

  template <int P, int R>
  void start(Vec (&sums)[P][R][Cell::kChains], int64_t panel, int64_t row) const {
    constexpr int V = Vec::kWidth;
    constexpr int G = Cell::kGates;
    GRU_UNROLL
    for (int p = 0; p < P; ++p) {
      GRU_UNROLL
      for (int r = 0; r < R; ++r) {
        const float* z = args.z + (row + r) * args.ldz + (panel + p) * (G * V);
        GRU_UNROLL
        for (int g = 0; g < G; ++g) sums[p][r][g] = load(z + g * V);
        if constexpr (Cell::kChains > G) sums[p][r][G] = load(args.bias_h + (panel + p) * V);
      }
    }
  }

  // Several rows go through memory: one copy of the update instead of P * R.
  void finish(int64_t panel, int64_t row, int panels, int rows, const float* pre) const {
    if (standard) {
      update_tile<Cell, StandardFunctions>(args, panel, row, panels, rows, pre);
    } else {
      update_tile<Cell, AnyFunctions>(args, panel, row, panels, rows, pre);
    }
  }
};

template <class Cell>
static void step(const StepArgs& args) {
  const StepTile<Cell> tile = {args, args.params->standard};
  run_tiles<Cell::kGates, Cell::kChains>(tile, args.panel_begin, args.panel_end, args.rows,
                                         args.backwards);
}

GRU_END_KERNELS
