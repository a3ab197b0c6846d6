// SPDX-License-Identifier: MIT
// LSTMs with full gate recurrence or layer normalisation (engine/lstm_row.h) in training.
#pragma once

#include "engine/lstm_row.h"
#include "train/products.h"

namespace gruengine {

class LstmByRows : DirectionPass {
 public:
  LstmByRows(const RecurrentTraining::Impl& layer, RecurrentTape::Data& tape, int64_t d);

  // Forward: each member of a team packs some weights, then multiplies some rows of the inputs.
  void pack(const Team& team);
  void multiply_inputs(const Team& team);
  // n rows of step t, to `output` [n, H].
  void step(int64_t t, int64_t begin, int64_t n, float* output);

  // Backward. `prepare` packs; `step_back` takes the gradients of what the cell gave, dh_new [n, H]
  // and dc [n, C], and leaves those of what it was given: dh [n, K] and dc.
  void prepare(const ProductGradients& to);
  void step_back(int64_t t, int64_t begin, int64_t n, const float* dh_new, float* dh, float* dc);
  // After all steps: gradients of vectors, then the deltas that the products need.
  void finish_steps(const RecurrentTraining::Gradients& to);
  void pack_gradients(const Team& team);
  void input_gradient(const Team& team) const;
  void weight_gradients(const Team& team, const RecurrentTraining::Gradients& to) const;

 private:
  LstmRow cell() const;
  void clear_dead();
  void vector_gradients(const RecurrentTraining::Gradients& to) const;
  int64_t fed() const { return tape_.fed() ? 3 * H_ : 0; }
  float* at(const Lease& of, int64_t row, int64_t size) const { return of.floats() + row * size; }
  float* scales(int which) const { return own_.scales.floats() + which * rows(); }
  // The deltas of W x and of R h: those of their sums, unless they are normalised apart.
  const float* input_deltas() const { return (tape_.normed() ? own_.x_hat : own_.gates).floats(); }
  const float* state_deltas() const { return (tape_.normed() ? dstates_ : own_.gates).floats(); }
  // c = init + a b for rows of packed b; c has row stride ld.
  void multiply(const float* a, int64_t lda, int64_t m, const Lease& b, const TrainPanels& form,
                const float* init, int64_t ldi, float* c, int64_t ldc) const;

  ProductGradients to_{};
  Lease packed_x_, packed_h_;
  Lease w_, r_, f_, bias_, deltas_, dn_, dstates_, dgates_, packed_gates_;
};

}  // namespace gruengine
