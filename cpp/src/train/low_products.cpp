// SPDX-License-Identifier: MIT
// Products in bfloat16 with float32 sums (Micikevicius et al. 2018, "Mixed precision training"):
// weights, states and gradients stay float32 and are rounded where they are multiplied.
#include "train/low_pack.h"
#include "train/products.h"

namespace gruengine {
namespace {

class LowForward final : public ForwardProducts, DirectionPass {
 public:
  LowForward(const DirectionPass& pass, int threads)
      : DirectionPass(pass),
        low_(*layer_.low),
        inputs_(low_, rows(), I_),
        states_(low_, threads * N_, K_),
        w_(static_cast<size_t>(panels_ * input_stride())),
        r_(static_cast<size_t>(panels_ * recurrent_stride(S_))) {}

  void pack(const Team& team) override {
    const int64_t G = layer_.G, first = team.begin(rows());
    inputs_.prepare(tape_.x + first * I_, I_, first, team.end(rows()) - first);
    const float* r = tape_.weights.r + d_ * G * H_ * K_;
    for (int64_t panel = team.begin(panels_); panel < team.end(panels_); ++panel) {
      pack_panel(tape_.weights.w + d_ * G * H_ * I_, I_, panel, 0, layer_.layout.input_slots,
                 w_.bytes() + panel * input_stride());
      for (const TrainPhase& phase : layer_.layout.phases) {
        pack_panel(r, K_, panel, phase.first, phase.slots, recurrent_panel(phase, panel));
      }
    }
  }

  void multiply_inputs(const float* bias, const Team& team) override {
    const int64_t first = team.begin(rows()), columns = layer_.layout.input_slots * V_;
    LowGemmArgs args{};
    args.m = team.end(rows()) - first;
    if (args.m == 0) return;
    args.n = columns;
    args.k = I_;
    args.a = inputs_.rows(first);
    args.block_stride = input_stride();
    args.nv = static_cast<int32_t>(layer_.layout.input_slots);
    args.ldc = S_ * V_;
    for (int64_t panel = 0; panel < panels_; ++panel) {
      args.b = w_.bytes() + panel * input_stride();
      args.init = bias + panel * columns;
      args.c = slots_at(panel, first);
      low_.gemm(args);
    }
  }

  void take_states(const TrainPhase& phase, const StepRows& step, const Team& team) override {
    states_.prepare(operand(phase, step.t, step.begin), K_, team.index() * N_, step.n);
  }

  void multiply_states(const TrainPhase& phase, const StepRows& step, int64_t low, int64_t high,
                       const Team& team) override {
    LowGemmArgs args{};
    args.m = step.n;
    args.n = phase.slots * V_;
    args.k = K_;
    args.a = states_.rows(team.index() * N_);
    args.block_stride = recurrent_stride(phase.slots);
    args.nv = phase.slots;
    args.ldi = args.ldc = S_ * V_;
    for (int64_t panel = low; panel < high; ++panel) {
      args.b = recurrent_panel(phase, panel);
      args.c = slots_at(panel, step.t * N_ + step.begin) + phase.first * V_;
      args.init = args.c;
      low_.gemm(args);
    }
  }

 private:
  int64_t input_stride() const { return block_bytes(low_, I_, layer_.layout.input_slots * V_); }
  int64_t recurrent_stride(int64_t slots) const { return block_bytes(low_, K_, slots * V_); }
  // The panels of later phases lie behind those of earlier ones.
  char* recurrent_panel(const TrainPhase& phase, int64_t panel) const {
    return r_.bytes() + (phase.of_reset ? panels_ * recurrent_stride(2) : 0) +
           panel * recurrent_stride(phase.slots);
  }
  void pack_panel(const float* w, int64_t k, int64_t panel, int first, int slots, char* to) const {
    const auto column = [&](int64_t c) -> const float* {
      const int64_t unit = panel * V_ + c % V_;
      const int gate = layer_.layout.gate[first + c / V_];
      return unit < H_ ? w + (gate * H_ + unit) * k : nullptr;
    };
    pack_low_columns(low_, k, slots * V_, column, to);
  }

  const LowType& low_;
  LowOperand inputs_, states_;
  Lease w_, r_;
};

// Deltas are multiplied in two forms: rows [panels * S * V] of a step and row, against weights that
// are zero for slots that take no part; and columns, one of all steps and rows for each unit.
class LowBackward final : public BackwardProducts, DirectionPass {
 public:
  LowBackward(const DirectionPass& pass, const ProductGradients& to, int threads)
      : DirectionPass(pass), low_(*layer_.low), to_(to) {
    const int64_t steps = to_.dx != nullptr ? rows() : 0;
    deltas_ = Lease(static_cast<size_t>(std::max(steps, threads * N_) * delta_stride()));
    for (size_t i = 0; i < layer_.layout.phases.size(); ++i) {
      back_.push_back(room(recurrent_form()));
    }
    if (to_.dx != nullptr) input_weights_ = room(input_form());
    if (to_.dw != nullptr) packed_x_ = room(x_form());
    if (to_.dr != nullptr) packed_h_ = room(h_form());
    if (to_.dr != nullptr && layer_.layout.gru_before) packed_reset_ = room(h_form());
    columns_ = LowOperand(low_, S_ * panels_ * V_, rows());
    scratch_ = take(threads * V_ * rows());
  }

  void pack_states(const Team& team) override {
    const float* r = tape_.weights.r + d_ * layer_.G * H_ * K_;
    for (size_t i = 0; i < back_.size(); ++i) {
      const TrainPhase& phase = layer_.layout.phases[i];
      pack_weights(recurrent_form(), r, phase.first, phase.slots, back_[i], team);
    }
  }

  void carry(size_t i, const StepRows& step, float* to, bool adds, bool shares_rows,
             const Team& team) override {
    const LowForm form = recurrent_form();
    const ColumnPart part(form, !shares_rows, team);
    if (step.n <= 0 || part.n <= 0) return;
    const int64_t own = team.index() * N_;
    prepare_deltas(step.t * N_ + step.begin, step.n, own);
    LowGemmArgs args{};
    args.m = step.n;
    args.n = part.n;
    args.k = form.k;
    args.a = delta_rows(own);
    args.b = back_[i].bytes() + part.low * form.stride();
    args.block_stride = form.stride();
    args.nv = form.nv();
    args.c = to + step.begin * K_ + part.low * form.columns();
    args.init = adds ? args.c : nullptr;
    args.ldi = args.ldc = K_;
    low_.gemm(args);
  }

  void pack_gradients(const Team& team) override {
    pack_columns(team);
    const auto share = [&](const LowForm& form, const float* from, const Lease& to) {
      const auto row = [&](int64_t i) { return from + i * form.n; };
      pack_low_rows(form, team.begin(form.blocks()), team.end(form.blocks()), row, to.bytes());
    };
    if (to_.dw != nullptr) share(x_form(), tape_.x, packed_x_);
    if (to_.dr != nullptr) share(h_form(), operands(false), packed_h_);
    if (to_.dr != nullptr && layer_.layout.gru_before) {
      share(h_form(), operands(true), packed_reset_);
    }
    if (to_.dx == nullptr) return;
    const int64_t first = team.begin(rows());
    prepare_deltas(first, team.end(rows()) - first, first);
    pack_weights(input_form(), tape_.weights.w + d_ * layer_.G * H_ * I_, 0,
                 layer_.layout.input_slots, input_weights_, team);
  }

  void input_gradient(const Team& team) override {
    const int64_t first = team.begin(rows());
    if (to_.dx == nullptr || team.end(rows()) == first) return;
    const LowForm form = input_form();
    LowGemmArgs args{};
    args.m = team.end(rows()) - first;
    args.n = I_;
    args.k = form.k;
    args.a = delta_rows(first);
    args.b = input_weights_.bytes();
    args.block_stride = form.stride();
    args.nv = form.nv();
    args.c = to_.dx + first * I_;
    args.init = to_.adds ? args.c : nullptr;
    args.ldi = args.ldc = I_;
    low_.gemm(args);
  }

  void weight_gradients(float* sums, const Team& team) override {
    for (int64_t panel = team.begin(panels_); panel < team.end(panels_); ++panel) {
      layer_.kernels->train->add_rows(slots_at(panel, 0), rows(), S_ * V_, S_ * V_,
                                      sums + panel * S_ * V_);
    }
    if (to_.dw != nullptr) {
      weight_gradient(packed_x_, x_form(), 0, layer_.layout.input_slots, to_.dw, team);
    }
    for (const TrainPhase& phase : layer_.layout.phases) {
      if (to_.dr == nullptr) break;
      weight_gradient(phase.of_reset ? packed_reset_ : packed_h_, h_form(), phase.first,
                      phase.slots, to_.dr, team);
    }
  }

 private:
  Lease room(const LowForm& form) const { return Lease(static_cast<size_t>(form.bytes())); }
  LowForm form_of(int64_t k, int64_t n) const { return {{k, n, V_}, &low_}; }
  LowForm recurrent_form() const { return form_of(panels_ * S_ * V_, K_); }
  LowForm input_form() const { return form_of(panels_ * S_ * V_, I_); }
  LowForm x_form() const { return form_of(rows(), I_); }
  LowForm h_form() const { return form_of(rows(), K_); }

  // Panels are prepared one after another, each with the padding that `prepare` writes.
  int64_t delta_stride() const { return prepared_stride(low_, panels_ * S_ * V_ + low_.multiple); }
  char* deltas_at(int64_t row) const { return deltas_.bytes() + row * delta_stride(); }
  LowRows delta_rows(int64_t row) const { return {deltas_at(row), delta_stride(), nullptr}; }

  void prepare_deltas(int64_t row, int64_t count, int64_t to) const {
    for (int64_t panel = 0; panel < panels_; ++panel) {
      low_.prepare({count, S_ * V_, slots_at(panel, row), S_ * V_, 0.0f,
                    deltas_at(to) + panel * S_ * V_ * low_.value_bytes, delta_stride(), nullptr});
    }
  }

  // Row (panel, slot, lane) of a matrix holds the weights of that unit, zeros for other slots.
  void pack_weights(const LowForm& form, const float* w, int first, int slots, const Lease& to,
                    const Team& team) const {
    const auto row = [&](int64_t i) -> const float* {
      const int64_t unit = i / (S_ * V_) * V_ + i % V_, slot = i / V_ % S_;
      if (unit >= H_ || slot < first || slot >= first + slots) return nullptr;
      return w + (layer_.layout.gate[slot] * H_ + unit) * form.n;
    };
    pack_low_rows(form, team.begin(form.blocks()), team.end(form.blocks()), row, to.bytes());
  }

  // Column (slot, unit) of the deltas becomes a prepared row.
  void pack_columns(const Team& team) const {
    float* turned = scratch_.floats() + team.index() * V_ * rows();
    for (int64_t panel = team.begin(panels_); panel < team.end(panels_); ++panel) {
      for (int64_t slot = 0; slot < S_; ++slot) {
        const float* from = slots_at(panel, 0) + slot * V_;
        for (int64_t low = 0; low < rows(); low += 16) {
          const int64_t high = std::min(rows(), low + 16);
          for (int64_t lane = 0; lane < V_; ++lane) {
            for (int64_t r = low; r < high; ++r)
              turned[lane * rows() + r] = from[r * S_ * V_ + lane];
          }
        }
        columns_.prepare(turned, rows(), (slot * panels_ + panel) * V_, V_);
      }
    }
  }

  // dw = the columns of some slots times b, for the units of this member.
  void weight_gradient(const Lease& b, const LowForm& form, int first, int slots, float* dw,
                       const Team& team) const {
    const int64_t unit = team.begin(panels_) * V_;
    LowGemmArgs args{};
    args.m = std::min(H_, team.end(panels_) * V_) - unit;
    if (args.m <= 0) return;
    args.n = form.n;
    args.k = form.k;
    args.b = b.bytes();
    args.block_stride = form.stride();
    args.nv = form.nv();
    args.ldc = form.n;
    for (int slot = first; slot < first + slots; ++slot) {
      args.a = columns_.rows(slot * panels_ * V_ + unit);
      args.c = dw + (layer_.layout.gate[slot] * H_ + unit) * form.n;
      low_.gemm(args);
    }
  }

  const LowType& low_;
  const ProductGradients to_;
  std::vector<Lease> back_;
  Lease deltas_, input_weights_, packed_x_, packed_h_, packed_reset_, scratch_;
  LowOperand columns_;
};

}  // namespace

std::unique_ptr<ForwardProducts> low_forward_products(const DirectionPass& pass, int threads) {
  return std::make_unique<LowForward>(pass, threads);
}

std::unique_ptr<BackwardProducts> low_backward_products(const DirectionPass& pass,
                                                        const ProductGradients& to, int threads) {
  return std::make_unique<LowBackward>(pass, to, threads);
}

}  // namespace gruengine
