// SPDX-License-Identifier: MIT
// The backward pass of one direction.
#pragma once

#include <memory>
#include <optional>

#include "train/blend.h"
#include "train/lstm_by_rows.h"
#include "train/products.h"

namespace gruengine {

class DirectionBackward : DirectionPass {
 public:
  DirectionBackward(const RecurrentTraining::Impl& layer, RecurrentTape::Data& tape, int64_t d,
                    const RecurrentTraining::OutputGradients& out,
                    const RecurrentTraining::Gradients& to);
  void run();

 private:
  bool worth_threads() const { return rows() * layer_.G * H_ * (I_ + K_) > 2'000'000; }
  TrainPanels projection_form() const { return {K_, H_, V_}; }
  // [T, N, ..] with row stride ld_dy().
  const float* dy() const {
    if (out_.dy == nullptr) return nullptr;
    return tape_.sorted ? sorted_dy_.floats() : out_.dy + d_ * K_;
  }
  // Whether dh holds dy already.
  bool folds() const { return tape_.blends() || tape_.by_rows(); }
  void fold(int64_t t, int64_t begin, int64_t n);
  int64_t ld_dy() const { return tape_.sorted ? K_ : layer_.D * K_; }

  void start();
  void run_steps(Team& team, const Split& split);
  void pack_projection(const Team& team);
  void step(int64_t t, const Part& part, Team& team);
  void step_cells(int64_t t, int64_t begin, int64_t n, const Part& part, Team& team);
  CellArgs gradient_args(int64_t t, int64_t begin, int64_t n) const;
  // to = (to +) deltas of phase i times its recurrent weights, where they saw no masked values.
  void carry(size_t i, const StepRows& rows, float* to, bool adds, const Part& part,
             const Team& team);
  // to = (to +) mask * product, for rows whose recurrent products saw masked values.
  void join_masked(const StepRows& rows, float* to, bool adds) const;
  // The gradient of the output before the projection.
  void project_back(int64_t t, int64_t begin, int64_t n, const Part& part, Team& team);
  // Rows past their length have no deltas.
  void clear_dead();
  void run_products(Team& team);
  void peephole_gradient(int64_t begin, int64_t end);
  void finish();

  const RecurrentTraining::OutputGradients& out_;
  const RecurrentTraining::Gradients& to_;
  std::optional<Blend> blend_;
  std::optional<LstmByRows> by_rows_;
  std::unique_ptr<BackwardProducts> products_;
  Lease masked_, dh_, dc_, dreset_, dhidden_, doutput_, projection_;
  Lease sorted_dx_, sorted_dy_, sums_, packed_hidden_;
};

}  // namespace gruengine
