// SPDX-License-Identifier: MIT
// The products of a direction with its weights, which are what a compute type changes.
#pragma once

#include <memory>

#include "train/direction.h"

namespace gruengine {

// Rows [begin, begin + n) of step t.
struct StepRows {
  int64_t t, begin, n;
};

class ForwardProducts {
 public:
  virtual ~ForwardProducts() = default;
  // Brings this member's part of the weights and inputs into the form that is multiplied.
  virtual void pack(const Team& team) = 0;
  // slots = bias + x W for this member's rows of all steps; bias is [panel][input slots][V].
  virtual void multiply_inputs(const float* bias, const Team& team) = 0;
  // Before multiply_states() of a phase of a step, by the member that will call it.
  virtual void take_states(const TrainPhase&, const StepRows&, const Team&) {}
  // Adds the operand of a phase times R to the slots of panels [low, high).
  virtual void multiply_states(const TrainPhase& phase, const StepRows& rows, int64_t low,
                               int64_t high, const Team& team) = 0;
};

// Gradients of a direction that products of all steps give; each may be nullptr.
struct ProductGradients {
  float* dx;  // [T*N, I]
  bool adds;  // to what is in dx
  float *dw, *dr;
};

class BackwardProducts {
 public:
  virtual ~BackwardProducts() = default;
  // The weights of carry().
  virtual void pack_states(const Team& team) = 0;
  // to = (to +) deltas of phase i times its recurrent weights, for this member's columns.
  virtual void carry(size_t i, const StepRows& rows, float* to, bool adds, bool shares_rows,
                     const Team& team) = 0;
  // What the products of all steps read.
  virtual void pack_gradients(const Team& team) = 0;
  virtual void input_gradient(const Team& team) = 0;
  // And to sums [panels][S*V], zero before, the sums of the deltas.
  virtual void weight_gradients(float* sums, const Team& team) = 0;
};

// The part of the columns of a product that a member takes.
struct ColumnPart {
  int64_t low, high;  // blocks
  int64_t n;          // columns in them
  ColumnPart(const TrainPanels& form, bool all, const Team& team)
      : low(all ? 0 : team.begin(form.blocks())),
        high(all ? form.blocks() : team.end(form.blocks())),
        n(std::max<int64_t>(0, std::min(form.n, high * form.columns()) - low * form.columns())) {}
};

// In the compute type of the layer; `threads` is the size of the largest team that will call.
std::unique_ptr<ForwardProducts> forward_products(const DirectionPass& pass, int threads);
std::unique_ptr<BackwardProducts> backward_products(const DirectionPass& pass,
                                                    const ProductGradients& to, int threads);

// train/low_products.cpp: for a compute type below float32.
std::unique_ptr<ForwardProducts> low_forward_products(const DirectionPass& pass, int threads);
std::unique_ptr<BackwardProducts> low_backward_products(const DirectionPass& pass,
                                                        const ProductGradients& to, int threads);

}  // namespace gruengine
