// SPDX-License-Identifier: MIT
// Backward through time. The loop over steps holds only what must be in order: the deltas of the
// gates and the product that carries them to the step before. Gradients of weights and inputs are
// products over all steps afterwards.
#include "train/recurrent_backward.h"

#include <algorithm>

#include "isa/denormals.h"

namespace gruengine {

using Impl = RecurrentTraining::Impl;
using OutputGradients = RecurrentTraining::OutputGradients;
using Gradients = RecurrentTraining::Gradients;

DirectionBackward::DirectionBackward(const Impl& layer, RecurrentTape::Data& tape, int64_t d,
                                     const OutputGradients& out, const Gradients& to)
    : DirectionPass(layer, tape, d), out_(out), to_(to) {
  const auto& layout = layer.layout;
  for (const TrainPhase& phase : layout.phases) {
    back_.push_back(take(form_of(phase).floats()));
  }
  dh_ = take(N_ * K_);
  if (layout.lstm) dc_ = take(N_ * H_);
  if (layout.gru_before) dreset_ = take(N_ * H_);
  if (projected_) {
    dhidden_ = take(N_ * H_);
    doutput_ = take(T_ * N_ * K_);
    projection_ = take(projection_form().floats());
  }
  if (to.dx != nullptr) {
    input_weights_ = take(input_form().floats());
    if (tape.sorted) sorted_dx_ = take(T_ * N_ * I_);
  }
  if (tape.sorted && out.dy != nullptr) sorted_dy_ = take(T_ * N_ * K_);
  sums_ = take(panels_ * S_ * V_ + 3 * H_);
  packed_x_ = take(x_form().floats());
  packed_h_ = take(h_form().floats());
  if (layout.gru_before) packed_reset_ = take(h_form().floats());
  if (projected_) packed_hidden_ = take(TrainPanels{rows(), H_, V_}.floats());
}

void DirectionBackward::run() {
  start();
  const Split split = split_of(layer_, T_, N_, K_);
  run_team(split.threads, [&](Team& team) { run_steps(team, split); });
  clear_dead();
  run_team(worth_threads() ? layer_.threads : 1, [&](Team& team) { run_products(team); });
  finish();
}

void DirectionBackward::start() {
  for (int64_t i = 0; i < N_; ++i) {
    const int64_t row = d_ * N_ + tape_.row(i);
    // A row of length 0 has no final state, only zeros.
    const bool empty = tape_.sorted && tape_.lengths[static_cast<size_t>(i)] == 0;
    const bool h = out_.dh != nullptr && !empty, c = out_.dc != nullptr && !empty;
    float* dh = dh_.floats() + i * K_;
    h ? copy(dh, out_.dh + row * K_, K_) : clear(dh, K_);
    if (!layer_.layout.lstm) continue;
    float* dc = dc_.floats() + i * H_;
    c ? copy(dc, out_.dc + row * H_, H_) : clear(dc, H_);
  }
  pack_peephole();
  if (tape_.sorted && out_.dy != nullptr) {
    for (int64_t t = 0; t < T_; ++t) {
      for (int64_t i = 0; i < N_; ++i) {
        copy(sorted_dy_.floats() + (t * N_ + i) * K_,
             out_.dy + ((t * N_ + tape_.row(i)) * layer_.D + d_) * K_, K_);
      }
    }
  }
  if (projected_) clear(doutput_.floats(), rows() * K_);
}

void DirectionBackward::run_steps(Team& team, const Split& split) {
  pack_recurrent(team);
  team.barrier();
  const Part part = split.part(team, N_, panels_);
  for (int64_t k = 0; k < T_; ++k) step(reverse_ ? k : T_ - 1 - k, part, team);
}

void DirectionBackward::pack_recurrent(const Team& team) {
  const float* r = tape_.weights.r + d_ * layer_.G * H_ * K_;
  for (size_t i = 0; i < back_.size(); ++i) {
    const TrainPhase& phase = layer_.layout.phases[i];
    const TrainPanels form = form_of(phase);
    pack_gate_rows(layer_, r, form, phase.first, phase.slots, team.begin(form.blocks()),
                   team.end(form.blocks()), back_[i].floats());
  }
  if (!projected_) return;
  const TrainPanels form = projection_form();
  pack_rows(tape_.weights.projection + d_ * K_ * H_, H_, form, team.begin(form.blocks()),
            team.end(form.blocks()), projection_.floats());
}

void DirectionBackward::step(int64_t t, const Part& part, Team& team) {
  const int64_t live = tape_.live_at(t);
  const int64_t begin = std::min(part.row_begin, live);
  const int64_t n = std::min(part.row_end, live) - begin;
  if (projected_) project_back(t, begin, n, part, team);
  CellArgs args = gradient_args(t, begin, n);
  args.panel_begin = part.panel_begin;
  args.panel_end = part.panel_end;
  const auto& phases = layer_.layout.phases;
  if (phases.size() == 1) {
    layer_.kernels->train->cell_backward[static_cast<int>(phases[0].kind)](args);
    if (part.shares_rows) team.barrier();
    carry(0, t, begin, n, dh_.floats(), layer_.layout.gru_after, part, team);
  } else {
    layer_.kernels->train->cell_backward[static_cast<int>(phases[1].kind)](args);
    if (part.shares_rows) team.barrier();
    carry(1, t, begin, n, dreset_.floats(), false, part, team);
    if (part.shares_rows) team.barrier();
    args.dy = nullptr;
    layer_.kernels->train->cell_backward[static_cast<int>(phases[0].kind)](args);
    if (part.shares_rows) team.barrier();
    carry(0, t, begin, n, dh_.floats(), true, part, team);
  }
  if (part.shares_rows) team.barrier();
}

CellArgs DirectionBackward::gradient_args(int64_t t, int64_t begin, int64_t n) const {
  CellArgs args = cell_args(t, begin, n);
  args.dh = (projected_ ? dhidden_.floats() : dh_.floats()) + begin * H_;
  if (!projected_ && dy() != nullptr) args.dy = dy() + (t * N_ + begin) * ld_dy();
  args.ldy = ld_dy();
  if (layer_.layout.lstm) args.dc = dc_.floats() + begin * H_;
  if (layer_.layout.gru_before) args.dreset = dreset_.floats() + begin * H_;
  return args;
}

// to = (to +) deltas of phase i times its recurrent weights, for this member's columns.
void DirectionBackward::carry(size_t i, int64_t t, int64_t begin, int64_t n, float* to, bool adds,
                              const Part& part, const Team& team) {
  const TrainPhase& phase = layer_.layout.phases[i];
  const TrainPanels form = form_of(phase);
  ProductArgs args{};
  args.m = n;
  args.k = phase.slots * V_;
  args.runs = panels_;
  args.a = slots_at(0, t * N_ + begin) + phase.first * V_;
  args.lda = S_ * V_;
  args.run_stride = rows() * S_ * V_;
  args.b = back_[i].floats();
  args.c = to + begin * K_;
  args.init = adds ? args.c : nullptr;
  take_columns(form, K_, part, team, args);
}

void DirectionBackward::take_columns(const TrainPanels& form, int64_t ld, const Part& part,
                                     const Team& team, ProductArgs& args) {
  const int64_t low = part.shares_rows ? team.begin(form.blocks()) : 0;
  const int64_t high = part.shares_rows ? team.end(form.blocks()) : form.blocks();
  args.n = std::min(form.n, high * form.columns()) - low * form.columns();
  if (args.m <= 0 || args.n <= 0) return;
  args.b += low * form.block_stride();
  args.block_stride = form.block_stride();
  args.nv = form.nv();
  args.c += low * form.columns();
  if (args.init != nullptr) args.init += low * form.columns();
  args.ldi = args.ldc = ld;
  args.init_block = args.c_block = form.columns();
  layer_.kernels->train->product(args);
}

// The gradient of the output before the projection.
void DirectionBackward::project_back(int64_t t, int64_t begin, int64_t n, const Part& part,
                                     Team& team) {
  float* total = doutput_.floats() + (t * N_ + begin) * K_;
  if (!part.shares_rows || team.index() == 0) {
    for (int64_t r = 0; r < n; ++r) {
      const float* dh = dh_.floats() + (begin + r) * K_;
      const float* own = dy() == nullptr ? nullptr : dy() + (t * N_ + begin + r) * ld_dy();
      float* to = total + r * K_;
      copy(to, dh, K_);
      if (own != nullptr) layer_.kernels->combine(Binary::kAdd, to, 1, own, 1, to, K_);
    }
  }
  if (part.shares_rows) team.barrier();
  ProductArgs args{};
  args.m = n;
  args.k = K_;
  args.runs = 1;
  args.a = total;
  args.lda = K_;
  args.b = projection_.floats();
  args.c = dhidden_.floats() + begin * H_;
  take_columns(projection_form(), H_, part, team, args);
  if (part.shares_rows) team.barrier();
}

// Rows past their length have no deltas.
void DirectionBackward::clear_dead() {
  if (!tape_.sorted) return;
  for (int64_t t = 0; t < T_; ++t) {
    const int64_t live = tape_.live_at(t);
    for (int64_t panel = 0; panel < panels_; ++panel) {
      clear(slots_at(panel, t * N_ + live), (N_ - live) * S_ * V_);
    }
  }
}

void RecurrentTraining::backward(RecurrentTape& tape, const OutputGradients& outputs,
                                 const Gradients& gradients) const {
  RecurrentTape::Data& data = tape.data();
  if (data.layer != impl_) {
    throw Error(ErrorCode::kInvalidArgument,
                "RecurrentTraining: the tape is of another layer; it must be of this one");
  }
  if (data.used) {
    throw Error(ErrorCode::kInvalidArgument,
                "RecurrentTraining: the tape was used by a backward pass; each allows one");
  }
  data.used = true;
  const FlushDenormals flush;
  for (int64_t d = 0; d < impl_->D; ++d) {
    DirectionBackward(*impl_, data, d, outputs, gradients).run();
    data.directions[static_cast<size_t>(d)] = DirectionTape{};
  }
}

}  // namespace gruengine
