// SPDX-License-Identifier: MIT
// One step of a recurrent layer with products in bfloat16 or int8; the cell itself is float32.
#pragma once

#include "kernels/base.h"
#include "kernels/low_tile.h"
#include "kernels/step.h"

GRU_BEGIN_KERNELS

// The pre-activations before the products of a step: `sums` is [panels][rows][kChains] vectors.
template <class Cell>
GRU_INLINE void start_sums(const StepArgs& args, int64_t panel, int64_t row, int panels, int rows,
                           float* sums) {
  constexpr int V = Vec::kWidth;
  constexpr int G = Cell::kGates;
  for (int p = 0; p < panels; ++p) {
    for (int r = 0; r < rows; ++r) {
      const float* z = args.z + (row + r) * args.ldz + (panel + p) * (G * V);
      GRU_UNROLL
      for (int g = 0; g < G; ++g) store(sums + g * V, load(z + g * V));
      if constexpr (Cell::kChains > G) store(sums + G * V, load(args.bias_h + (panel + p) * V));
      sums += Cell::kChains * V;
    }
  }
}

template <class Cell>
GRU_INLINE void update_sums(const StepArgs& args, int64_t panel, int64_t row, int panels, int rows,
                            const float* sums) {
  if (args.params->standard) {
    update_tile<Cell, StandardFunctions>(args, panel, row, panels, rows, sums);
  } else {
    update_tile<Cell, AnyFunctions>(args, panel, row, panels, rows, sums);
  }
}

// Bytes of a block of k rows and NV vectors.
template <class Weights, int NV>
GRU_INLINE int64_t bytes_of_block(int64_t k, int32_t terms) {
  const int64_t head = Weights::kGroup == 4 ? NV * Vec::kWidth * 8 : 0;
  const int64_t rows = (k + Weights::kMultiple - 1) / Weights::kMultiple * Weights::kMultiple;
  return head + (terms == 3 ? 2 : 1) * rows / Weights::kGroup * (NV * Vec::kWidth * 4);
}

template <class Cell, class Weights>
struct LowStepTile {
  const LowStepArgs& args;

  // Products of one chain that are not cut.
  int64_t depth() const { return 0; }
  Panels weights() const { return {nullptr, 0}; }

  template <int P, int R>
  void run(int64_t panel, int64_t row, const Part&) const {
    static_assert(P * R * Cell::kChains <= kMostLowSums);
    run_with(panel, row, P, R, &Weights::template add<Cell::kGates, P, R>);
  }

  // One copy for all shapes: what depends on the shape in earnest is the loop of the products.
  GRU_NEVER_INLINE void run_with(int64_t panel, int64_t row, int panels, int rows,
                                 void (*add)(const LowTile&)) const {
    constexpr int G = Cell::kGates;
    alignas(64) float sums[kMostLowSums * Vec::kWidth];
    start_sums<Cell>(args.cell, panel, row, panels, rows, sums);
    const auto* w = static_cast<const uint8_t*>(args.w) + panel * args.panel_stride;
    if (args.cell.input > 0) {
      add_terms<Weights>(add, tile(args.x, row, w, G - 1, sums), G, args.cell.input, args.terms);
      w += bytes_of_block<Weights, G>(args.cell.input, args.terms);
    }
    const LowTile last = tile(args.h, row, w, Cell::recurrent_chain(G - 1), sums);
    add_terms<Weights>(add, last, G, args.cell.recurrent, args.terms);
    update_sums<Cell>(args.cell, panel, row, panels, rows, sums);
  }

  LowTile tile(const LowRows& a, int64_t row, const uint8_t* w, int last, float* sums) const {
    return {static_cast<const uint8_t*>(a.data) + row * a.stride,
            a.stride,
            a.scale == nullptr ? nullptr : a.scale + row,
            w,
            args.panel_stride,
            0,
            sums,
            Cell::kChains,
            last};
  }
};

template <class Cell, class Weights>
static void low_step(const LowStepArgs& args) {
  const LowStepTile<Cell, Weights> tile = {args};
  run_tiles<Cell::kGates, Cell::kGates>(tile, args.cell.panel_begin, args.cell.panel_end,
                                        args.cell.rows, args.cell.backwards);
}

GRU_END_KERNELS
