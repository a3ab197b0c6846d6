// SPDX-License-Identifier: MIT
// Products in float32.
#include <algorithm>

#include "train/products.h"

namespace gruengine {
namespace {

class FloatForward final : public ForwardProducts, DirectionPass {
 public:
  explicit FloatForward(const DirectionPass& pass) : DirectionPass(pass) {
    w_ = take(panels_ * layer_.layout.input_slots * V_ * I_);
    r_ = take(panels_ * S_ * V_ * K_);
  }

  void pack(const Team& team) override {
    const auto& w = tape_.weights;
    const int64_t begin = team.begin(panels_), end = team.end(panels_);
    pack_gates(layer_, w.w + d_ * layer_.G * H_ * I_, I_, 0, layer_.layout.input_slots, begin, end,
               w_.floats());
    for (const TrainPhase& phase : layer_.layout.phases) {
      pack_gates(layer_, w.r + d_ * layer_.G * H_ * K_, K_, phase.first, phase.slots, begin, end,
                 recurrent_panels(phase));
    }
  }

  void multiply_inputs(const float* bias, const Team& team) override {
    const int64_t first = team.begin(rows()), input_slots = layer_.layout.input_slots;
    ProductArgs args{};
    args.m = team.end(rows()) - first;
    args.n = panels_ * input_slots * V_;
    args.k = I_;
    args.runs = 1;
    args.a = tape_.x + first * I_;
    args.lda = I_;
    args.b = w_.floats();
    args.block_stride = I_ * input_slots * V_;
    args.nv = static_cast<int32_t>(input_slots);
    args.init = bias;
    args.init_block = input_slots * V_;
    args.c = slots_at(0, first);
    args.ldc = S_ * V_;
    args.c_block = rows() * S_ * V_;
    if (args.m > 0) layer_.kernels->train->product(args);
  }

  void multiply_states(const TrainPhase& phase, const StepRows& step, int64_t low, int64_t high,
                       const Team&) override {
    const int64_t row = step.t * N_ + step.begin;
    ProductArgs args{};
    args.m = step.n;
    args.n = (high - low) * phase.slots * V_;
    args.k = K_;
    args.runs = 1;
    args.a = operand(phase, step.t, step.begin);
    args.lda = K_;
    args.block_stride = K_ * phase.slots * V_;
    args.b = recurrent_panels(phase) + low * args.block_stride;
    args.nv = phase.slots;
    args.c = slots_at(low, row) + phase.first * V_;
    args.init = args.c;
    args.ldi = args.ldc = S_ * V_;
    args.init_block = args.c_block = rows() * S_ * V_;
    layer_.kernels->train->product(args);
  }

 private:
  // The panels of later phases lie behind those of earlier ones.
  float* recurrent_panels(const TrainPhase& phase) const {
    return r_.floats() + (phase.of_reset ? panels_ * 2 * V_ * K_ : 0);
  }

  Lease w_, r_;
};

class FloatBackward final : public BackwardProducts, DirectionPass {
 public:
  FloatBackward(const DirectionPass& pass, const ProductGradients& to)
      : DirectionPass(pass), to_(to) {
    for (const TrainPhase& phase : layer_.layout.phases) {
      back_.push_back(take(form_of(phase).floats()));
    }
    if (to_.dx != nullptr) input_weights_ = take(input_form().floats());
    if (to_.dw != nullptr) packed_x_ = take(x_form().floats());
    if (to_.dr != nullptr) packed_h_ = take(h_form().floats());
    if (to_.dr != nullptr && layer_.layout.gru_before) packed_reset_ = take(h_form().floats());
  }

  void pack_states(const Team& team) override {
    const float* r = tape_.weights.r + d_ * layer_.G * H_ * K_;
    for (size_t i = 0; i < back_.size(); ++i) {
      const TrainPhase& phase = layer_.layout.phases[i];
      const TrainPanels form = form_of(phase);
      pack_gate_rows(layer_, r, form, phase.first, phase.slots, team.begin(form.blocks()),
                     team.end(form.blocks()), back_[i].floats());
    }
  }

  void carry(size_t i, const StepRows& step, float* to, bool adds, bool shares_rows,
             const Team& team) override {
    const TrainPhase& phase = layer_.layout.phases[i];
    const TrainPanels form = form_of(phase);
    const ColumnPart part(form, !shares_rows, team);
    if (step.n <= 0 || part.n <= 0) return;
    ProductArgs args{};
    args.m = step.n;
    args.n = part.n;
    args.k = phase.slots * V_;
    args.runs = panels_;
    args.a = slots_at(0, step.t * N_ + step.begin) + phase.first * V_;
    args.lda = S_ * V_;
    args.run_stride = rows() * S_ * V_;
    args.b = back_[i].floats() + part.low * form.block_stride();
    args.block_stride = form.block_stride();
    args.nv = form.nv();
    args.c = to + step.begin * K_ + part.low * form.columns();
    args.init = adds ? args.c : nullptr;
    args.ldi = args.ldc = K_;
    args.init_block = args.c_block = form.columns();
    layer_.kernels->train->product(args);
  }

  void pack_gradients(const Team& team) override {
    const auto share = [&](const TrainPanels& form, const float* from, const Lease& to) {
      pack_rows(from, form.n, form, team.begin(form.blocks()), team.end(form.blocks()),
                to.floats());
    };
    if (to_.dw != nullptr) share(x_form(), tape_.x, packed_x_);
    if (to_.dr != nullptr) share(h_form(), operands(false), packed_h_);
    if (to_.dr != nullptr && layer_.layout.gru_before) {
      share(h_form(), operands(true), packed_reset_);
    }
    if (to_.dx == nullptr) return;
    const TrainPanels form = input_form();
    pack_gate_rows(layer_, tape_.weights.w + d_ * layer_.G * H_ * I_, form, 0,
                   layer_.layout.input_slots, team.begin(form.blocks()), team.end(form.blocks()),
                   input_weights_.floats());
  }

  void input_gradient(const Team& team) override {
    const int64_t first = team.begin(rows());
    if (to_.dx == nullptr || team.end(rows()) == first) return;
    const TrainPanels form = input_form();
    ProductArgs args{};
    args.m = team.end(rows()) - first;
    args.n = I_;
    args.k = layer_.layout.input_slots * V_;
    args.runs = panels_;
    args.a = slots_at(0, first);
    args.lda = S_ * V_;
    args.run_stride = rows() * S_ * V_;
    args.b = input_weights_.floats();
    args.block_stride = form.block_stride();
    args.nv = form.nv();
    args.c = to_.dx + first * I_;
    args.init = to_.adds ? args.c : nullptr;
    args.ldi = args.ldc = I_;
    args.init_block = args.c_block = form.columns();
    layer_.kernels->train->product(args);
  }

  void weight_gradients(float* sums, const Team& team) override {
    std::vector<WeightGradient> wanted;
    if (to_.dw != nullptr) {
      wanted.push_back({packed_x_.floats(), x_form(), 0, layer_.layout.input_slots, to_.dw});
    }
    for (const TrainPhase& phase : layer_.layout.phases) {
      if (to_.dr == nullptr) break;
      const Lease& operand = phase.of_reset ? packed_reset_ : packed_h_;
      wanted.push_back({operand.floats(), h_form(), phase.first, phase.slots, to_.dr});
    }
    gruengine::weight_gradients(layer_, own_.slots.floats(), rows(), wanted, sums, team);
  }

 private:
  TrainPanels form_of(const TrainPhase& phase) const {
    return {panels_ * phase.slots * V_, K_, V_};
  }
  TrainPanels input_form() const { return {panels_ * layer_.layout.input_slots * V_, I_, V_}; }
  TrainPanels x_form() const { return {rows(), I_, V_}; }
  TrainPanels h_form() const { return {rows(), K_, V_}; }

  const ProductGradients to_;
  std::vector<Lease> back_;
  Lease input_weights_, packed_x_, packed_h_, packed_reset_;
};

}  // namespace

std::unique_ptr<ForwardProducts> forward_products(const DirectionPass& pass, int threads) {
  if (pass.layer_.low) return low_forward_products(pass, threads);
  return std::make_unique<FloatForward>(pass);
}

std::unique_ptr<BackwardProducts> backward_products(const DirectionPass& pass,
                                                    const ProductGradients& to, int threads) {
  if (pass.layer_.low) return low_backward_products(pass, to, threads);
  return std::make_unique<FloatBackward>(pass, to);
}

}  // namespace gruengine
