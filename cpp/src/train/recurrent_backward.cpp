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
  if (tape.blends()) blend_.emplace(layer, tape, d);
  if (tape.by_rows()) by_rows_.emplace(layer, tape, d);
  dh_ = take(N_ * K_);
  if (C_ > 0) dc_ = take(N_ * C_);
  if (tape.recurrent_mask != nullptr) masked_ = take(N_ * K_);
  if (by_rows_ && !projected_) dhidden_ = take(N_ * H_);
  if (layout.gru_before) dreset_ = take(N_ * H_);
  if (projected_) {
    dhidden_ = take(N_ * H_);
    doutput_ = take(T_ * N_ * K_);
    projection_ = take(projection_form().floats());
  }
  if (to.dx != nullptr && tape.sorted) sorted_dx_ = take(T_ * N_ * I_);
  if (tape.sorted && out.dy != nullptr) sorted_dy_ = take(T_ * N_ * K_);
  sums_ = take(panels_ * S_ * V_ + 3 * H_);
  if (projected_) packed_hidden_ = take(TrainPanels{rows(), H_, V_}.floats());
}

void DirectionBackward::run() {
  start();
  const Split split = split_of(layer_, tape_);
  const int threads = worth_threads() ? layer_.threads : 1;
  float* dx = tape_.sorted && to_.dx != nullptr ? sorted_dx_.floats() : to_.dx;
  const ProductGradients to{dx, d_ > 0 && !tape_.sorted,
                            to_.dw == nullptr ? nullptr : to_.dw + d_ * layer_.G * H_ * I_,
                            to_.dr == nullptr ? nullptr : to_.dr + d_ * layer_.G * H_ * K_};
  if (blend_) blend_->prepare();
  if (by_rows_) {
    by_rows_->prepare(to);
  } else {
    products_ = backward_products(*this, to, std::max(split.threads, threads));
  }
  run_team(split.threads, [&](Team& team) { run_steps(team, split); });
  by_rows_ ? by_rows_->finish_steps(to_) : clear_dead();
  run_team(threads, [&](Team& team) { run_products(team); });
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
    if (C_ == 0) continue;
    float* dc = dc_.floats() + i * C_;
    c ? copy(dc, out_.dc + row * C_, C_) : clear(dc, C_);
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
  if (products_) products_->pack_states(team);
  if (projected_) pack_projection(team);
  team.barrier();
  const Part part = split.part(team, N_, panels_);
  for (int64_t k = 0; k < T_; ++k) step(reverse_ ? k : T_ - 1 - k, part, team);
}

void DirectionBackward::pack_projection(const Team& team) {
  const TrainPanels form = projection_form();
  pack_rows(tape_.weights.projection + d_ * K_ * H_, H_, form, team.begin(form.blocks()),
            team.end(form.blocks()), projection_.floats());
}

void DirectionBackward::step(int64_t t, const Part& part, Team& team) {
  const int64_t live = tape_.live_at(t);
  const int64_t begin = std::min(part.row_begin, live);
  const int64_t n = std::min(part.row_end, live) - begin;
  if (folds()) fold(t, begin, n);
  if (blend_) blend_->split(t, begin, n, dh_.floats(), dc_.floats());
  if (projected_) project_back(t, begin, n, part, team);
  if (by_rows_) {
    float* dnew = dhidden_.floats() + begin * H_;
    if (!projected_) copy(dnew, dh_.floats() + begin * H_, n * H_);
    float* dh = dh_.floats() + begin * K_;
    by_rows_->step_back(t, begin, n, dnew, dh, dc_.floats() + begin * C_);
    if (tape_.recurrent_mask != nullptr) {
      copy(masked_.floats() + begin * K_, dh, n * K_);
      join_masked({t, begin, n}, dh_.floats(), false);
    }
  } else {
    step_cells(t, begin, n, part, team);
  }
  if (blend_) blend_->join(begin, n, dh_.floats(), dc_.floats());
  if (part.shares_rows) team.barrier();
}

void DirectionBackward::fold(int64_t t, int64_t begin, int64_t n) {
  for (int64_t r = begin; r < begin + n && dy() != nullptr; ++r) {
    float* dh = dh_.floats() + r * K_;
    layer_.kernels->combine(Binary::kAdd, dh, 1, dy() + (t * N_ + r) * ld_dy(), 1, dh, K_);
  }
}

void DirectionBackward::step_cells(int64_t t, int64_t begin, int64_t n, const Part& part,
                                   Team& team) {
  const StepRows rows{t, begin, n};
  CellArgs args = gradient_args(t, begin, n);
  args.panel_begin = part.panel_begin;
  args.panel_end = part.panel_end;
  const auto& phases = layer_.layout.phases;
  if (phases.size() == 1) {
    layer_.kernels->train->cell_backward[static_cast<int>(phases[0].kind)](args);
    if (part.shares_rows) team.barrier();
    carry(0, rows, dh_.floats(), layer_.layout.gru_after, part, team);
  } else {
    layer_.kernels->train->cell_backward[static_cast<int>(phases[1].kind)](args);
    if (part.shares_rows) team.barrier();
    carry(1, rows, dreset_.floats(), false, part, team);
    if (part.shares_rows) team.barrier();
    args.dy = nullptr;
    layer_.kernels->train->cell_backward[static_cast<int>(phases[0].kind)](args);
    if (part.shares_rows) team.barrier();
    carry(0, rows, dh_.floats(), true, part, team);
  }
}

CellArgs DirectionBackward::gradient_args(int64_t t, int64_t begin, int64_t n) const {
  CellArgs args = cell_args(t, begin, n);
  args.dh = (projected_ ? dhidden_.floats() : dh_.floats()) + begin * H_;
  if (!projected_ && dy() != nullptr && !folds()) args.dy = dy() + (t * N_ + begin) * ld_dy();
  args.ldy = ld_dy();
  if (layer_.layout.lstm) args.dc = dc_.floats() + begin * C_;
  if (layer_.layout.gru_before) args.dreset = dreset_.floats() + begin * H_;
  return args;
}

void DirectionBackward::carry(size_t i, const StepRows& rows, float* to, bool adds,
                              const Part& part, const Team& team) {
  if (tape_.recurrent_mask == nullptr) {
    return products_->carry(i, rows, to, adds, part.shares_rows, team);
  }
  products_->carry(i, rows, masked_.floats(), false, part.shares_rows, team);
  join_masked(rows, to, adds);
}

void DirectionBackward::join_masked(const StepRows& rows, float* to, bool adds) const {
  for (int64_t r = rows.begin; r < rows.begin + rows.n; ++r) {
    const float* mask = tape_.recurrent_mask + (d_ * N_ + tape_.row(r)) * K_;
    const float* product = masked_.floats() + r * K_;
    float* line = to + r * K_;
    for (int64_t k = 0; k < K_; ++k) line[k] = (adds ? line[k] : 0.0f) + mask[k] * product[k];
  }
}

// The gradient of the output before the projection.
void DirectionBackward::project_back(int64_t t, int64_t begin, int64_t n, const Part& part,
                                     Team& team) {
  float* total = doutput_.floats() + (t * N_ + begin) * K_;
  if (!part.shares_rows || team.index() == 0) {
    for (int64_t r = 0; r < n; ++r) {
      const float* dh = dh_.floats() + (begin + r) * K_;
      const bool none = dy() == nullptr || folds();
      const float* own = none ? nullptr : dy() + (t * N_ + begin + r) * ld_dy();
      float* to = total + r * K_;
      copy(to, dh, K_);
      if (own != nullptr) layer_.kernels->combine(Binary::kAdd, to, 1, own, 1, to, K_);
    }
  }
  if (part.shares_rows) team.barrier();
  const TrainPanels form = projection_form();
  const ColumnPart part_of(form, !part.shares_rows, team);
  ProductArgs args{};
  args.m = n;
  args.n = part_of.n;
  args.k = K_;
  args.runs = 1;
  args.a = total;
  args.lda = K_;
  args.b = projection_.floats() + part_of.low * form.block_stride();
  args.block_stride = form.block_stride();
  args.nv = form.nv();
  args.c = dhidden_.floats() + begin * H_ + part_of.low * form.columns();
  args.ldc = H_;
  args.c_block = form.columns();
  if (args.m > 0 && args.n > 0) layer_.kernels->train->product(args);
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
