// SPDX-License-Identifier: MIT
// The inside of RecurrentTraining: how the slots of a cell lie, its packed weights, its passes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "engine/low.h"
#include "engine/parallel.h"
#include "gruengine/training.h"
#include "isa/train_table.h"
#include "train/pool.h"

namespace gruengine {

inline void copy(float* to, const float* from, int64_t n) {
  std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
}
inline void clear(float* to, int64_t n) {
  std::memset(to, 0, static_cast<size_t>(n) * sizeof(float));
}

// A product with the previous output (or with r * h) in each step, and the cell after it.
struct TrainPhase {
  StepKind kind;
  int first, slots;  // the slots that the product adds to
  bool of_reset;     // its operand is r * h
};

// Slots of a cell (isa/train_table.h), and what they are in W, R and B.
struct CellLayout {
  int slots;
  int input_slots;  // those from 0 that take part in the product with x
  int gate[4];      // the gate of each slot
  std::vector<TrainPhase> phases;
  bool lstm, gru_after, gru_before;
};

// What products are made in; throws Error(kInvalidArgument) for a type that is not for training.
std::optional<LowType> training_type(const KernelTable& kernels, ComputeType type);

struct RecurrentTraining::Impl {
  const KernelTable* kernels;
  CellLayout layout;
  std::vector<CellParams> params;  // one a direction
  int64_t G, I, H, D;
  bool reverse_first;
  int threads;
  std::optional<LowType> low;  // of the products; nothing for float32
  float zoneout_h, zoneout_c, epsilon, skip_cost;

  bool reverse(int64_t d) const { return d == 1 || reverse_first; }
  int64_t width() const { return kernels->width; }
  int64_t panels() const { return (H + width() - 1) / width(); }
};

// What one direction of a forward pass leaves.
struct DirectionTape {
  Lease slots;   // [panels][T*N][S*V]
  Lease h;       // [T+1, N, K]: states between the steps, in the order of time
  Lease c;       // [T+1, N, H]
  Lease hidden;  // [T, N, H] before the projection
  Lease reset;   // [T, N, H]: r * h

  // Of steps that are blended with the state before them: what the cell gave, [T, N, K] and
  // [T, N, C]; of those that may be skipped the probability of the next update, [T, N].
  Lease new_h, new_c, probability;
  Lease masked_h, masked_reset;  // [T, N, K]: what the recurrent products saw
  // LSTMs by rows (engine/lstm_row.h): gates, later their deltas, and inputs and states
  // normalised, [T*N, 4H]; the cell normalised, and what the output gate multiplies, [T*N, H];
  // the reciprocal deviations of the three, [3, T*N].
  Lease gates, x_hat, h_hat, c_hat, squashed, scales;
};

struct RecurrentTape::Data {
  std::shared_ptr<const RecurrentTraining::Impl> layer;
  RecurrentTraining::Weights weights;
  int64_t T, N, K;
  int64_t C;       // size of the state c
  const float* x;  // in the order of rows below
  const float *recurrent_mask, *keep_h, *keep_c;
  Lease sorted_x;
  // With lengths: rows by falling length, that length, and how many rows live in each step.
  bool sorted;
  std::vector<int64_t> rows, lengths, live;
  std::vector<DirectionTape> directions;
  bool used = false;

  bool fed() const { return weights.gate_recurrence != nullptr; }
  bool normed() const { return weights.norm != nullptr; }
  bool skips() const { return weights.skip != nullptr; }
  // The state after a step is a blend of that before it and what the cell gives.
  bool blends() const {
    return skips() || keep_h != nullptr || layer->zoneout_h > 0 || layer->zoneout_c > 0;
  }
  bool by_rows() const { return fed() || normed(); }
  bool plain() const { return !by_rows() && !blends() && recurrent_mask == nullptr; }

  int64_t live_at(int64_t t) const { return sorted ? live[static_cast<size_t>(t)] : N; }
  int64_t row(int64_t i) const { return sorted ? rows[static_cast<size_t>(i)] : i; }
};

// Columns of a matrix in blocks of so many vectors.
struct TrainPanels {
  int64_t k, n;
  int64_t width;
  int32_t nv() const;
  int64_t columns() const { return nv() * width; }
  int64_t blocks() const { return (n + columns() - 1) / columns(); }
  // Columns of a block, and those with the padding to whole vectors.
  int64_t used(int64_t block) const { return std::min(columns(), n - block * columns()); }
  int64_t whole(int64_t block) const { return (used(block) + width - 1) / width * width; }
  int64_t block_stride() const { return k * columns(); }
  int64_t floats() const { return k * ((n + width - 1) / width) * width; }
};

// The part of a step that one member of a team takes: rows or units.
struct Part {
  int64_t row_begin, row_end;
  int64_t panel_begin, panel_end;
  bool shares_rows;  // members must meet between steps
};

// How a pass over time is split: by rows where each thread has enough of them, else by units.
struct Split {
  int threads;
  bool by_rows;
  Part part(const Team& team, int64_t rows, int64_t panels) const;
};
Split split_of(const RecurrentTraining::Impl& layer, const RecurrentTape::Data& tape);

// Rows by falling length, so that those alive are always the first (train/sorted_rows.cpp).
void sort_rows(RecurrentTape::Data& tape, const int64_t* lengths);
void gather_inputs(RecurrentTape::Data& tape, const RecurrentTraining::Impl& layer);

// -- packing (train/pack.cpp): each takes the part [begin, end) of the panels or blocks ----------

// to[panel][row i of a line][slots][V]: `slots` from `first`; w is [G*H, columns].
void pack_gates(const RecurrentTraining::Impl& layer, const float* w, int64_t columns, int first,
                int slots, int64_t begin, int64_t end, float* to);
// Rows (panel, slot, unit) of w as a matrix in panels of `columns` columns.
void pack_gate_rows(const RecurrentTraining::Impl& layer, const float* w, const TrainPanels& form,
                    int first, int slots, int64_t begin, int64_t end, float* to);
// The transpose of a row-major matrix [form.n, form.k].
void pack_transposed(const float* from, const TrainPanels& form, int64_t begin, int64_t end,
                     float* to);
// A row-major matrix with row stride ld.
void pack_rows(const float* from, int64_t ld, const TrainPanels& form, int64_t begin, int64_t end,
               float* to);

// -- gradients of weights (train/weight_gradients.cpp) --------------------------------------------

// dw[(gate of slot) * H + unit, :] = sum over T*N rows of delta(slot, unit) * b.
struct WeightGradient {
  const float* b;  // packed T*N rows
  TrainPanels form;
  int first, slots;
  float* dw;  // [G*H, form.n]
};

// The members of a team take some of the panels each.
void weight_gradients(const RecurrentTraining::Impl& layer, const float* deltas, int64_t rows,
                      const std::vector<WeightGradient>& wanted, float* sums, const Team& team);
// c[m, form.n] (+)= a^T b for a of form.k rows with stride lda and b packed.
void transposed_product(const KernelTable& kernels, const float* a, int64_t lda, int64_t m,
                        const float* b, const TrainPanels& form, bool accumulate, float* c,
                        const Team& team);

}  // namespace gruengine
