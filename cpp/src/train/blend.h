// SPDX-License-Identifier: MIT
// Steps after which the state is a blend of what it was and what the cell gives: zoneout (Krueger
// et al., 2016) keeps units at random, a skipped step (Campos et al., 2018) keeps all of them.
#pragma once

#include "train/direction.h"

namespace gruengine {

class Blend : DirectionPass {
 public:
  Blend(const RecurrentTraining::Impl& layer, RecurrentTape::Data& tape, int64_t d);

  // From what the cell gave to the state after step t.
  void forward(int64_t t, int64_t begin, int64_t end);

  // Memory of the backward pass.
  void prepare();
  // Gradients of the state after step t become those of what the cell gave; what goes straight to
  // the state before it is kept, and added by `join` when the cell has done its part.
  void split(int64_t t, int64_t begin, int64_t n, float* dh, float* dc);
  void join(int64_t begin, int64_t n, float* dh, float* dc) const;
  // The gradient of the weights that decide about updates, [K + 1].
  void skip_gradient(float* to) const;

 private:
  const float* skip_weights() const { return tape_.weights.skip + d_ * (K_ + 1); }
  // What is kept of a row at step t: of h, or of the cell.
  const float* mask(const float* masks, int64_t t, int64_t row, int64_t size) const;
  void zone(const float* keep, float share, const float* before, const float* given, int64_t n,
            float* to) const;
  void skip(int64_t t, int64_t row);
  void split_zone(const float* keep, float share, int64_t n, float* d, float* direct) const;
  void split_skip(int64_t t, int64_t row, float* dh, float* dc);

  Lease scratch_, direct_h_, direct_c_, dlogit_;
};

}  // namespace gruengine
