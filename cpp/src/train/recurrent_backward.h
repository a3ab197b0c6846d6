// SPDX-License-Identifier: MIT
// The backward pass of one direction.
#pragma once

#include <vector>

#include "train/direction.h"

namespace gruengine {

class DirectionBackward : DirectionPass {
 public:
  DirectionBackward(const RecurrentTraining::Impl& layer, RecurrentTape::Data& tape, int64_t d,
                    const RecurrentTraining::OutputGradients& out,
                    const RecurrentTraining::Gradients& to);
  void run();

 private:
  bool worth_threads() const { return rows() * layer_.G * H_ * (I_ + K_) > 2'000'000; }
  TrainPanels form_of(const TrainPhase& phase) const {
    return {panels_ * phase.slots * V_, K_, V_};
  }
  TrainPanels input_form() const { return {panels_ * layer_.layout.input_slots * V_, I_, V_}; }
  TrainPanels projection_form() const { return {K_, H_, V_}; }
  TrainPanels x_form() const { return {rows(), I_, V_}; }
  TrainPanels h_form() const { return {rows(), K_, V_}; }
  // States before (after) each step, over all steps.
  const float* previous(const Lease& states, int64_t size) const {
    return states.floats() + before(0) * N_ * size;
  }
  const float* next(const Lease& states, int64_t size) const {
    return states.floats() + after(0) * N_ * size;
  }
  // [T, N, ..] with row stride ld_dy().
  const float* dy() const {
    if (out_.dy == nullptr) return nullptr;
    return tape_.sorted ? sorted_dy_.floats() : out_.dy + d_ * K_;
  }
  int64_t ld_dy() const { return tape_.sorted ? K_ : layer_.D * K_; }

  void start();
  void run_steps(Team& team, const Split& split);
  void pack_recurrent(const Team& team);
  void step(int64_t t, const Part& part, Team& team);
  CellArgs gradient_args(int64_t t, int64_t begin, int64_t n) const;
  // to = (to +) deltas of phase i times its recurrent weights, for this member's columns.
  void carry(size_t i, int64_t t, int64_t begin, int64_t n, float* to, bool adds, const Part& part,
             const Team& team);
  void take_columns(const TrainPanels& form, int64_t ld, const Part& part, const Team& team,
                    ProductArgs& args);
  // The gradient of the output before the projection.
  void project_back(int64_t t, int64_t begin, int64_t n, const Part& part, Team& team);
  // Rows past their length have no deltas.
  void clear_dead();
  void run_products(Team& team);
  void pack_for_products(const Team& team);
  void input_gradient(const Team& team);
  void peephole_gradient(int64_t begin, int64_t end);
  void finish();

  const RecurrentTraining::OutputGradients& out_;
  const RecurrentTraining::Gradients& to_;
  std::vector<Lease> back_;
  Lease dh_, dc_, dreset_, dhidden_, doutput_, projection_;
  Lease input_weights_, sorted_dx_, sorted_dy_, sums_;
  Lease packed_x_, packed_h_, packed_reset_, packed_hidden_;
};

}  // namespace gruengine
