// SPDX-License-Identifier: MIT
// The forward pass of training: the product with all inputs at once, then for each step the product
// with the last output and the cell, whose gates stay where the products were.
#include <algorithm>
#include <optional>

#include "isa/denormals.h"
#include "train/blend.h"
#include "train/lstm_by_rows.h"
#include "train/products.h"

namespace gruengine {
namespace {

using Impl = RecurrentTraining::Impl;
using Inputs = RecurrentTraining::Inputs;
using Outputs = RecurrentTraining::Outputs;

// Slots of so many bytes are updated while they are still in the first cache.
constexpr int64_t kNearBytes = 32 << 10;

class DirectionForward : DirectionPass {
 public:
  DirectionForward(const Impl& layer, RecurrentTape::Data& tape, int64_t d, const Inputs& in,
                   const Outputs& out)
      : DirectionPass(layer, tape, d), in_(in), out_(out) {
    own_.h = take((T_ + 1) * N_ * K_);
    if (C_ > 0) own_.c = take((T_ + 1) * N_ * C_);
    if (projected_) own_.hidden = take(T_ * N_ * H_);
    if (layer.layout.gru_before) own_.reset = take(T_ * N_ * H_);
    if (tape.recurrent_mask != nullptr) {
      own_.masked_h = take(T_ * N_ * K_);
      if (layer.layout.gru_before) own_.masked_reset = take(T_ * N_ * H_);
    }
    if (tape.blends()) blend_.emplace(layer, tape, d);
    if (projected_) projection_ = take(projection_form().floats());
    if (tape.by_rows()) {
      by_rows_.emplace(layer, tape, d);
      return;
    }
    own_.slots = take(panels_ * T_ * N_ * S_ * V_);
    biases_ = take(panels_ * V_ * (S_ + 1));
  }

  void run() {
    if (!by_rows_) pack_biases();
    pack_peephole();
    start_states();
    const Split split = split_of(layer_, tape_);
    if (!by_rows_) products_ = forward_products(*this, split.threads);
    run_team(split.threads, [&](Team& team) { run_member(team, split); });
    finish();
  }

 private:
  TrainPanels projection_form() const { return {H_, K_, V_}; }
  float* bias() const { return biases_.floats(); }
  float* bias_h() const { return bias() + panels_ * S_ * V_; }

  void pack_biases() {
    const int64_t G = layer_.G, input_slots = layer_.layout.input_slots;
    const float* b = tape_.weights.b == nullptr ? nullptr : tape_.weights.b + d_ * 2 * G * H_;
    clear(bias(), panels_ * V_ * (S_ + 1));
    if (b == nullptr) return;
    for (int64_t u = 0; u < H_; ++u) {
      const int64_t panel = u / V_, lane = u % V_;
      for (int64_t s = 0; s < input_slots; ++s) {
        const int64_t at = layer_.layout.gate[s] * H_ + u;
        const bool apart = layer_.layout.gru_after && s == 0;
        bias()[(panel * input_slots + s) * V_ + lane] = apart ? b[at] : b[at] + b[G * H_ + at];
      }
      if (layer_.layout.gru_after) bias_h()[u] = b[(G + 2) * H_ + u];
    }
  }

  void start_states() {
    const int64_t start = reverse_ ? T_ : 0;
    float* h = h_at(start, 0);
    float* c = C_ > 0 ? c_at(start, 0) : nullptr;
    for (int64_t i = 0; i < N_; ++i) {
      const int64_t row = d_ * N_ + tape_.row(i);
      in_.h0 != nullptr ? copy(h + i * K_, in_.h0 + row * K_, K_) : clear(h + i * K_, K_);
      if (c == nullptr) continue;
      in_.c0 != nullptr ? copy(c + i * C_, in_.c0 + row * C_, C_) : clear(c + i * C_, C_);
    }
  }

  void run_member(Team& team, const Split& split) {
    by_rows_ ? by_rows_->pack(team) : products_->pack(team);
    if (projected_ && team.index() == 0) pack_projection();
    team.barrier();
    by_rows_ ? by_rows_->multiply_inputs(team) : products_->multiply_inputs(bias(), team);
    team.barrier();
    const Part part = split.part(team, N_, panels_);
    for (int64_t k = 0; k < T_; ++k) step(reverse_ ? T_ - 1 - k : k, part, team);
  }

  void pack_projection() {
    const TrainPanels form = projection_form();
    pack_transposed(tape_.weights.projection + d_ * K_ * H_, form, 0, form.blocks(),
                    projection_.floats());
  }

  void step(int64_t t, const Part& part, Team& team) {
    const int64_t live = tape_.live_at(t);
    const int64_t begin = std::min(part.row_begin, live), end = std::min(part.row_end, live);
    if (tape_.sorted) carry_dead(t, std::max(part.row_begin, live), part);
    mask_rows(h_at(before(t), 0), own_.masked_h, t, begin, end);
    if (by_rows_) by_rows_->step(t, begin, end - begin, output_at(t, begin));
    for (const TrainPhase& phase : layer_.layout.phases) {
      if (by_rows_) break;
      if (phase.of_reset && part.shares_rows) team.barrier();
      if (phase.of_reset) {
        mask_rows(own_.reset.floats() + t * N_ * H_, own_.masked_reset, t, begin, end);
      }
      run_phase(phase, t, begin, end, part, team);
    }
    if (projected_) {
      if (part.shares_rows) team.barrier();
      project(t, begin, end, part, team);
    }
    if (blend_) blend_->forward(t, begin, end);
    if (part.shares_rows) team.barrier();
  }

  float* output_at(int64_t t, int64_t row) const {
    return projected_ ? own_.hidden.floats() + (t * N_ + row) * H_ : new_h_at(t, row);
  }

  // One mask for all steps of a row.
  void mask_rows(const float* from, const Lease& to, int64_t t, int64_t begin, int64_t end) const {
    if (tape_.recurrent_mask == nullptr) return;
    for (int64_t i = begin; i < end; ++i) {
      const float* mask = tape_.recurrent_mask + (d_ * N_ + tape_.row(i)) * K_;
      float* line = to.floats() + (t * N_ + i) * K_;
      for (int64_t k = 0; k < K_; ++k) line[k] = mask[k] * from[i * K_ + k];
    }
  }

  // Rows past their length: what the later products read must be finite, and in the reverse
  // direction a row starts from its initial state.
  void carry_dead(int64_t t, int64_t from, const Part& part) {
    if (part.panel_begin != 0 || from >= part.row_end) return;
    const int64_t count = part.row_end - from;
    copy(h_at(after(t), from), h_at(before(t), from), count * K_);
    if (C_ > 0) copy(c_at(after(t), from), c_at(before(t), from), count * C_);
    const int64_t row = t * N_ + from;
    if (blend_) clear(new_h_at(t, from), count * K_);
    if (blend_ && C_ > 0) clear(new_c_at(t, from), count * C_);
    if (tape_.recurrent_mask != nullptr) {
      clear(own_.masked_h.floats() + row * K_, count * K_);
      if (layer_.layout.gru_before) clear(own_.masked_reset.floats() + row * H_, count * H_);
    }
    if (layer_.layout.gru_before) clear(own_.reset.floats() + row * H_, count * H_);
    if (projected_) clear(own_.hidden.floats() + row * H_, count * H_);
  }

  void run_phase(const TrainPhase& phase, int64_t t, int64_t begin, int64_t end, const Part& part,
                 const Team& team) {
    const int64_t n = end - begin;
    if (n == 0) return;
    products_->take_states(phase, {t, begin, n}, team);
    const int64_t group = std::max<int64_t>(1, kNearBytes / (n * S_ * V_ * 4));
    for (int64_t low = part.panel_begin; low < part.panel_end; low += group) {
      const int64_t high = std::min(part.panel_end, low + group);
      if (layer_.layout.gru_after) start_reset_slot(t * N_ + begin, n, low, high);
      products_->multiply_states(phase, {t, begin, n}, low, high, team);
      CellArgs args = cell_args(t, begin, n);
      const int64_t row = t * N_ + begin;
      args.h_out = output_at(t, begin);
      if (layer_.layout.gru_before) args.reset = own_.reset.floats() + row * H_;
      args.panel_begin = low;
      args.panel_end = high;
      layer_.kernels->train->cell_forward[static_cast<int>(phase.kind)](args);
    }
  }

  // The product with R_n is scaled by the reset gate, so its bias goes with it.
  void start_reset_slot(int64_t row, int64_t n, int64_t low, int64_t high) {
    for (int64_t panel = low; panel < high; ++panel) {
      float* to = slots_at(panel, row) + 3 * V_;
      for (int64_t r = 0; r < n; ++r) copy(to + r * S_ * V_, bias_h() + panel * V_, V_);
    }
  }

  void project(int64_t t, int64_t begin, int64_t end, const Part& part, const Team& team) {
    const TrainPanels form = projection_form();
    const int64_t low = part.shares_rows ? team.begin(form.blocks()) : 0;
    const int64_t high = part.shares_rows ? team.end(form.blocks()) : form.blocks();
    if (end == begin || high == low) return;
    ProductArgs args{};
    args.m = end - begin;
    args.n = std::min(K_, high * form.columns()) - low * form.columns();
    args.k = H_;
    args.runs = 1;
    args.a = own_.hidden.floats() + (t * N_ + begin) * H_;
    args.lda = H_;
    args.b = projection_.floats() + low * form.block_stride();
    args.block_stride = form.block_stride();
    args.nv = form.nv();
    args.c = new_h_at(t, begin) + low * form.columns();
    args.ldc = K_;
    args.c_block = form.columns();
    layer_.kernels->train->product(args);
  }

  void finish() {
    write_outputs();
    for (int64_t i = 0; i < N_; ++i) {
      const int64_t row = d_ * N_ + tape_.row(i);
      const int64_t length = tape_.sorted ? tape_.lengths[static_cast<size_t>(i)] : T_;
      const int64_t last = reverse_ ? 0 : length;
      const bool empty = tape_.sorted && length == 0;
      float* h = out_.h + row * K_;
      empty ? clear(h, K_) : copy(h, h_at(last, i), K_);
      if (C_ == 0 || out_.c == nullptr) continue;
      float* c = out_.c + row * C_;
      empty ? clear(c, C_) : copy(c, c_at(last, i), C_);
    }
  }

  void write_outputs() {
    const int64_t D = layer_.D;
    if (D == 1 && !tape_.sorted) return copy(out_.y, h_at(after(0), 0), T_ * N_ * K_);
    for (int64_t t = 0; t < T_; ++t) {
      const int64_t live = tape_.live_at(t);
      const float* from = h_at(after(t), 0);
      for (int64_t i = 0; i < N_; ++i) {
        float* to = out_.y + ((t * N_ + tape_.row(i)) * D + d_) * K_;
        i < live ? copy(to, from + i * K_, K_) : clear(to, K_);
      }
    }
  }

  const Inputs& in_;
  const Outputs& out_;
  std::optional<Blend> blend_;
  std::optional<LstmByRows> by_rows_;
  std::unique_ptr<ForwardProducts> products_;
  Lease biases_, projection_;
};

}  // namespace

std::shared_ptr<RecurrentTape> RecurrentTraining::forward(const Weights& weights,
                                                          const Inputs& inputs,
                                                          const Outputs& outputs) const {
  const FlushDenormals flush;
  auto data = std::make_unique<RecurrentTape::Data>();
  data->layer = impl_;
  data->weights = weights;
  data->T = inputs.steps;
  data->N = inputs.rows;
  data->K = weights.k;
  data->C = cell_size(weights);
  data->x = inputs.x;
  data->recurrent_mask = inputs.recurrent_mask;
  data->keep_h = inputs.keep_h;
  data->keep_c = inputs.keep_c;
  data->sorted = false;
  if (inputs.lengths != nullptr) sort_rows(*data, inputs.lengths);
  if (data->sorted) gather_inputs(*data, *impl_);
  data->directions.resize(static_cast<size_t>(impl_->D));
  for (int64_t d = 0; d < impl_->D; ++d) {
    DirectionForward(*impl_, *data, d, inputs, outputs).run();
  }
  return std::make_shared<RecurrentTape>(std::move(data));
}

}  // namespace gruengine
