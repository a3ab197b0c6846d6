// SPDX-License-Identifier: MIT
// One direction of a pass over time: what its forward and its backward share.
#pragma once

#include "train/recurrent.h"

namespace gruengine {

struct DirectionPass {
  DirectionPass(const RecurrentTraining::Impl& layer, RecurrentTape::Data& tape, int64_t d)
      : layer_(layer),
        tape_(tape),
        own_(tape.directions[static_cast<size_t>(d)]),
        d_(d),
        T_(tape.T),
        N_(tape.N),
        K_(tape.K),
        C_(tape.C),
        H_(layer.H),
        I_(layer.I),
        V_(layer.width()),
        S_(layer.layout.slots),
        panels_(layer.panels()),
        reverse_(layer.reverse(d)),
        projected_(tape.weights.projection != nullptr) {}

  DirectionPass(const DirectionPass& other) : DirectionPass(other.layer_, other.tape_, other.d_) {}

  static Lease take(int64_t n) { return Lease(static_cast<size_t>(n) * sizeof(float)); }
  int64_t rows() const { return T_ * N_; }
  float* slots_at(int64_t panel, int64_t row) const {
    return own_.slots.floats() + (panel * rows() + row) * S_ * V_;
  }
  // States before and after step t lie at these places of the tape.
  int64_t before(int64_t t) const { return reverse_ ? t + 1 : t; }
  int64_t after(int64_t t) const { return reverse_ ? t : t + 1; }
  float* h_at(int64_t place, int64_t row) const {
    return own_.h.floats() + (place * N_ + row) * K_;
  }
  float* c_at(int64_t place, int64_t row) const {
    return own_.c.floats() + (place * N_ + row) * C_;
  }
  // What the cell of step t gives, before it is blended with the state before it.
  float* new_h_at(int64_t t, int64_t row) const {
    if (!tape_.blends()) return h_at(after(t), row);
    return own_.new_h.floats() + (t * N_ + row) * K_;
  }
  float* new_c_at(int64_t t, int64_t row) const {
    if (!tape_.blends()) return c_at(after(t), row);
    return own_.new_c.floats() + (t * N_ + row) * C_;
  }

  // [T*N, K]: what the recurrent products of all steps multiply: h, or r * h, of the step before.
  const float* operands(bool of_reset) const {
    if (tape_.recurrent_mask != nullptr) {
      return (of_reset ? own_.masked_reset : own_.masked_h).floats();
    }
    return of_reset ? own_.reset.floats() : h_at(before(0), 0);
  }
  // [n, K]: what a phase multiplies with its recurrent weights.
  const float* operand(const TrainPhase& phase, int64_t t, int64_t begin) const {
    return operands(phase.of_reset) + (t * N_ + begin) * K_;
  }

  // [panel][3][V], so that a cell reads it beside its slots.
  void pack_peephole() {
    const float* p = tape_.weights.p;
    if (p == nullptr) return;
    peephole_ = take(panels_ * 3 * V_);
    clear(peephole_.floats(), panels_ * 3 * V_);
    for (int64_t u = 0; u < 3 * H_; ++u) {
      const int64_t unit = u % H_;
      peephole_.floats()[(unit / V_ * 3 + u / H_) * V_ + unit % V_] = p[d_ * 3 * H_ + u];
    }
  }

  // Rows [begin, begin + n) of step t: slots, parameters and states.
  CellArgs cell_args(int64_t t, int64_t begin, int64_t n) const {
    CellArgs args{};
    args.rows = n;
    args.hidden = H_;
    args.slots = slots_at(0, t * N_ + begin);
    args.panel_stride = rows() * S_ * V_;
    args.params = &layer_.params[static_cast<size_t>(d_)];
    args.peephole = tape_.weights.p != nullptr ? peephole_.floats() : nullptr;
    args.ld_state = H_;
    args.ld_cell = C_;
    args.h = h_at(before(t), begin);
    if (layer_.layout.lstm) {
      args.c = c_at(before(t), begin);
      args.c_out = new_c_at(t, begin);
    }
    return args;
  }

  const RecurrentTraining::Impl& layer_;
  RecurrentTape::Data& tape_;
  DirectionTape& own_;
  const int64_t d_;
  const int64_t T_, N_, K_, C_, H_, I_, V_, S_, panels_;
  const bool reverse_, projected_;
  Lease peephole_;
};

}  // namespace gruengine
