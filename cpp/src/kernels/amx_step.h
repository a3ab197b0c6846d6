// SPDX-License-Identifier: MIT
// One step of a recurrent layer with products of tiles; the same chains as amx_vectors.h.
#pragma once

#include "kernels/amx_product.h"
#include "kernels/amx_vectors.h"
#include "kernels/low_step.h"

GRU_BEGIN_KERNELS

// The activations nearly every model has; between them products are issued. The empty statement
// keeps the compiler from moving a product away from where it is issued.
template <class Weave>
struct WovenFunctions {
  using V = Many<Vec, kWoven>;
  const CellParams& params;
  Weave& weave;
  GRU_ALWAYS_INLINE V held(V y) const {
    GRU_UNROLL
    for (int i = 0; i < kWoven; ++i) __asm__ volatile("" : "+v"(y.v[i].v));
    weave.next();
    return y;
  }
  GRU_ALWAYS_INLINE V gate(const V& x) const { return held(sigmoid(x)); }
  GRU_ALWAYS_INLINE V candidate(const V& x) const { return held(tanh(x)); }
  GRU_ALWAYS_INLINE V output(const V& x) const { return tanh(x); }
  static V kept(const V&, const V& value) { return value; }
  static constexpr bool coupled() { return false; }
  bool update_takes() const { return params.update_takes; }
};

template <class Cell, class Kind>
struct StepJob {
  static constexpr int kGates = Cell::kGates;
  static constexpr int kChains = Cell::kChains;
  static constexpr int kSegments = 2;
  static constexpr int kRowFloats = (Kind::kScaled ? kSegments : 1) * kChains * kTileFloats;
  static constexpr int chain(int segment, int gate) {
    return segment == 0 ? gate : Cell::recurrent_chain(gate);
  }

  const LowStepArgs& args;

  static int64_t tiles(int64_t k) { return (k + Kind::kMultiple - 1) / Kind::kMultiple; }
  static constexpr int64_t kHead = Kind::kScaled ? kGates * kTileFloats * 8 : 0;
  int64_t input_bytes() const {
    const int64_t k = args.cell.input;
    const int64_t parts = args.terms == 3 ? 2 : 1;
    return k == 0 ? 0 : kHead + parts * tiles(k) * (kGates * kTileRows * kTileBytes);
  }

  TileSegment segment(int s, int64_t panel) const {
    const uint8_t* block = static_cast<const uint8_t*>(args.w) + panel * args.panel_stride;
    const int64_t n = tiles(s == 0 ? args.cell.input : args.cell.recurrent);
    if (s == 1) block += input_bytes();
    return {s == 0 ? args.x : args.h, block, block + kHead, n, args.terms == 3};
  }

  TileStart start(int64_t panel, int64_t row, int c) const {
    const StepArgs& cell = args.cell;
    if (c == kGates) return {cell.bias_h + panel * kTileFloats, 0};
    return {cell.z + row * cell.ldz + (panel * kGates + c) * kTileFloats, cell.ldz * 4};
  }

  static constexpr TilePlace place(int64_t, int64_t) { return {nullptr, 0}; }

  bool weaves(int64_t panel) const {
    return args.cell.params->standard && whole_units(args.cell, panel);
  }
  // Finishing scaled sums takes longer.
  static constexpr int64_t rows_of_a_tile() { return Kind::kScaled ? 1 : 2; }

  template <class Weave>
  GRU_ALWAYS_INLINE void finish(int64_t panel, int64_t row, const float* sums, Weave& weave) const {
    Many<Vec, kWoven> pre[kChains];
    GRU_UNROLL
    for (int r = 0; r < kWoven; ++r) {
      Vec of_row[kChains];
      read(panel, row + r, sums + r * kRowFloats, of_row);
      GRU_UNROLL
      for (int c = 0; c < kChains; ++c) pre[c].v[r] = of_row[c];
    }
    update_rows<Cell>(args.cell, panel, row, pre, WovenFunctions<Weave>{*args.cell.params, weave});
  }

  // Scaled sums become pre-activations in their own place: [rows][kChains] vectors.
  void finish_rows(int64_t panel, int64_t row, int64_t rows, float* sums) const {
    if constexpr (Kind::kScaled) {
      for (int64_t r = 0; r < rows; ++r) {
        Vec pre[kChains];
        read(panel, row + r, sums + r * kRowFloats, pre);
        GRU_UNROLL
        for (int c = 0; c < kChains; ++c) store(sums + (r * kChains + c) * kTileFloats, pre[c]);
      }
    }
    update_sums<Cell>(args.cell, panel, row, 1, static_cast<int>(rows), sums);
  }

  GRU_ALWAYS_INLINE void read(int64_t panel, int64_t row, const float* sums, Vec* pre) const {
    if constexpr (Kind::kScaled) {
      scale(panel, row, sums, pre);
    } else {
      GRU_UNROLL
      for (int c = 0; c < kChains; ++c) pre[c] = load(sums + c * kTileFloats);
    }
  }

  GRU_ALWAYS_INLINE void scale(int64_t panel, int64_t row, const float* sums, Vec* pre) const {
    GRU_UNROLL
    for (int c = 0; c < kChains; ++c) {
      const TileStart from = start(panel, row, c);
      pre[c] = load(from.data);
    }
    if (args.cell.input > 0) add_scaled<0>(panel, row, sums, pre);
    add_scaled<1>(panel, row, sums + kChains * kTileFloats, pre);
  }

  template <int S>
  GRU_ALWAYS_INLINE void add_scaled(int64_t panel, int64_t row, const float* sums, Vec* pre) const {
    const TileSegment part = segment(S, panel);
    const auto* scales = reinterpret_cast<const float*>(part.head);
    const Vec of_row = splat(part.rows.scale[row]);
    GRU_UNROLL
    for (int g = 0; g < kGates; ++g) {
      const int c = chain(S, g);
      const Ints sum = load_ints(reinterpret_cast<const int32_t*>(sums) + c * kTileFloats);
      pre[c] = fma(to_float(sum), of_row * load(scales + g * kTileFloats), pre[c]);
    }
  }
};

template <class Cell, class Kind, class Weights>
static void tiled_step(const LowStepArgs& args) {
  const int64_t panels = args.cell.panel_end - args.cell.panel_begin;
  if (Kind::pay(panels * args.panel_stride, args.cell.rows)) {
    const StepJob<Cell, Kind> job = {args};
    multiply_tiles<Kind>(job, args.cell.panel_begin, args.cell.panel_end, args.cell.rows,
                         args.cell.backwards);
  } else {
    const LowStepTile<Cell, Weights> tile = {args};
    run_few<Cell::kGates>(tile, args.cell.panel_begin, args.cell.panel_end, args.cell.rows,
                          args.cell.backwards);
  }
}

GRU_END_KERNELS
