// SPDX-License-Identifier: MIT
// The recurrent node: its weights packed for the kernels, and the loops over time.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "engine/lstm_row.h"
#include "engine/op.h"
#include "engine/parallel.h"
#include "engine/weights.h"

namespace gruengine {

// One product-and-update of a cell (GRU with the reset before the product has two).
struct CellPhase {
  StepKind kind;
  int gates;
  PackedMatrix w;         // rows: I inputs, then K recurrent values
  LowMatrix low;          // the same below float32, then w is empty
  const float* bias;      // [panels * gates * V]
  const float* bias_h;    // GruAfter
  const float* peephole;  // LSTM
  StepArgs step;          // what all steps share; where inputs and states lie is still to be said
};

// Weights of a product: in float32, or in the compute type below it.
struct ProductWeights {
  PackedMatrix floats;
  LowMatrix low;
};

// The weights of an LSTM by rows (engine/lstm_row.h); f is empty unless gates feed gates.
struct RowWeights {
  ProductWeights w, r, f;
  const float *bias = nullptr, *peephole = nullptr, *norm = nullptr;
};

struct CellDirection {
  std::vector<CellPhase> phases;
  ProductWeights projection;
  CellParams params;
  bool reverse;
  RowWeights by_rows;
  const float* skip;  // [K + 1], or nullptr
};

// What a run of the node needs; made once for given shapes.
struct RecurrentPlan {
  enum class Cell { kRnn, kLstm, kGru };

  const KernelTable* kernels;
  const LowType* low;  // nullptr: float32
  Cell cell;
  int64_t T, N, I, H, K, D;
  int64_t C;       // size of the state c: engine/lstm_row.h and engine/skip.h add to it
  int64_t panels;  // of V units
  std::vector<CellDirection> directions;
  bool carried;    // initial states are read from, and final ones written to, the state block
  bool projected;  // K values are a product of the H cell outputs
  bool by_rows;    // engine/lstm_row.h; the phases are empty then
  int64_t fed;     // gates that feed gates: 3 * H or 0
  float epsilon;
  float zoneout_h, zoneout_c;  // what is kept of h and the cell
  bool skips, blends;          // the state after a step is a blend of that before it and a new one
  int64_t chunk_steps;  // steps whose input products are computed at once; 0: fused into the step
  int64_t lanes;        // directions that have scratch memory of their own: D or 1

  Slot x, y;
  Slot h0, c0;    // [D,N,K], [D,N,C]: initial states (state block, value or zeros)
  Slot c;         // [D,N,C]: working cells (the state block itself when carried)
  Slot y_h, y_c;  // outputs
  bool wants_y_h, wants_y_c;
  Slot z;                          // [lanes]: input products of a chunk, phase after phase
  Slot hidden;                     // [lanes,N,H]: cell outputs before the projection
  Slot gate, reset;                // [lanes,N,H] each: GRU with the reset before the product
  bool has_lengths, lengths_wide;  // int64 rather than int32
  Slot lengths;                    // [N]
  Slot order;                      // int64 [2,N]: rows by falling length, then those lengths
  Slot sorted_x, sorted_y, sorted_h, sorted_c;  // in that order: [T,N,I], [T,N,K], [N,K], [N,C]
  Slot new_h, new_c;                            // [lanes,N,K], [lanes,N,C]: before they are blended
  Slot sums, hats, squashed;  // [lanes][row_floats()] twice, [lanes,H]: of cells by rows

  // Below float32 every member of the team prepares rows for itself.
  LowBuffer rows_x, rows_h, rows_hidden, rows_fed;
  int64_t rows_bytes() const {
    return rows_x.bytes() + rows_h.bytes() + rows_hidden.bytes() + rows_fed.bytes();
  }
  int64_t member_bytes;
  Slot prepared;  // [threads][member_bytes]

  // Sweeps over the weights so far, by whatever stream: see first_sweep().
  mutable std::atomic<uint32_t> sweeps{0};

  // One direction over one block of rows.
  struct Sequence {
    const CellDirection* direction;
    const float* x;  // [T,N,I]
    float* y;        // y_step floats from one step to the next
    int64_t y_step;
    const float* h0;  // [N,K]
    float* c;         // [N,C], updated in place
    bool backwards;
    const int64_t* lengths;  // falling; nullptr: every row runs to T
    float *z, *hidden, *gate, *reset;
    float *new_h, *new_c, *sums, *hats, *squashed;
    char* prepared;   // of all members
    uint32_t sweeps;  // those before the first step
  };

  // Says in every phase what its steps share, once the rest of the plan is made.
  void share_steps();

  // Whether a run is a step of the kernels for each direction, and no more: it needs no sequence.
  bool is_plain_step() const {
    return T == 1 && N > 0 && !has_lengths && !rare() && !projected && chunk_steps == 0 &&
           directions[0].phases.size() == 1;
  }
  void run_plain_step(const Frame& frame) const;

  // Without lengths: what comes before and after the steps of all directions, and between.
  void start(const Frame& frame) const;
  Sequence sequence(const Frame& frame, int d) const;
  void finish(const Frame& frame) const;
  // Steps [from, to), counted along the direction.
  void run_steps(const Sequence& s, int64_t from, int64_t to, Team& team) const;
  // The whole run with rows of unlike lengths. False when there are none: nothing was done.
  bool run_lengths(const Frame& frame) const;

  // Steps of cells that something surrounds are made by one thread.
  bool rare() const { return by_rows || blends; }
  // Sums of all rows; products read whole vectors behind the last.
  int64_t row_floats() const { return N * 4 * H + kernels->width; }

  // Of one step of one direction.
  int64_t weight_bytes() const;  // recurrent ones, and those of the inputs when fused
  int64_t products() const;      // multiply-adds
  int64_t rate() const;          // about how many a nanosecond of them

 private:
  // A step as the stages of it see it.
  struct Moment {
    int64_t now;    // the step
    int64_t first;  // of the steps whose input products are there
    int64_t fresh;  // of them still to be made
    int64_t rows;
    const float* h;
  };

  // Some rows of a step, and where they go.
  struct Rows {
    int64_t first, count;
    float *h_out, *c_out;  // of row 0
  };

  void step_alone(const Sequence& s, const Moment& moment) const;
  void compute(const Sequence& s, const Moment& moment, const Rows& rows) const;
  void compute_cells(const Sequence& s, const Moment& moment, const Rows& rows) const;
  void compute_by_rows(const Sequence& s, const Moment& moment, const Rows& rows) const;
  void multiply_inputs(const Sequence& s, const float* x, int64_t rows, float* z) const;
  void blend(const Sequence& s, const Moment& moment, float* y) const;
  void skip_or_take(const Sequence& s, const float* h, float* y, int64_t row) const;
  void multiply(const ProductWeights& b, int64_t begin, int64_t end, const GemmArgs& args,
                const LowBuffer& buffer, char* memory) const;
  LstmRow row_of(const CellDirection& direction) const;
  Sequence sorted_sequence(const Frame& frame, int d) const;
  void run_sorted(const Frame& frame, int d) const;
  void project_inputs(const Sequence& s, int64_t first, int64_t steps, const Team& team,
                      int part) const;
  StepArgs step_args(const Sequence& s, const CellPhase& phase, const Moment& moment) const;
  void step_cells(const CellPhase& phase, StepArgs& args, char* rows) const;
  void step_sections(const CellPhase& phase, StepArgs& args, char* rows) const;
  void project(const Sequence& s, int64_t rows, float* y, const Team& team, int part) const;
  char* member(const Sequence& s, const Team& team) const;
  void step(const Sequence& s, const Moment& moment, Team& team) const;
  uint32_t first_sweep() const;
  bool sort_rows(const Frame& frame) const;
};

void plan_recurrent(NodeBuilder& builder);

}  // namespace gruengine
