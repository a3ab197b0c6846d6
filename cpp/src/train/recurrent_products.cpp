// SPDX-License-Identifier: MIT
// Gradients of weights and inputs, from the deltas of all steps at once.
#include <algorithm>

#include "train/recurrent_backward.h"

namespace gruengine {

void DirectionBackward::run_products(Team& team) {
  pack_for_products(team);
  team.barrier();
  if (to_.dx != nullptr) input_gradient(team);
  const auto& phases = layer_.layout.phases;
  std::vector<WeightGradient> wanted;
  if (to_.dw != nullptr) {
    wanted.push_back({packed_x_.floats(), x_form(), 0, layer_.layout.input_slots,
                      to_.dw + d_ * layer_.G * H_ * I_});
  }
  for (const TrainPhase& phase : phases) {
    if (to_.dr == nullptr) break;
    wanted.push_back({(phase.of_reset ? packed_reset_ : packed_h_).floats(), h_form(), phase.first,
                      phase.slots, to_.dr + d_ * layer_.G * H_ * K_});
  }
  const int64_t begin = team.begin(panels_), end = team.end(panels_);
  clear(sums_.floats() + begin * S_ * V_, (end - begin) * S_ * V_);
  weight_gradients(layer_, own_.slots.floats(), rows(), wanted, sums_.floats(), team);
  if (to_.dp != nullptr) peephole_gradient(begin, end);
  if (projected_ && to_.dprojection != nullptr) {
    const TrainPanels form{rows(), H_, V_};
    transposed_product(*layer_.kernels, doutput_.floats(), K_, K_, packed_hidden_.floats(), form,
                       false, to_.dprojection + d_ * K_ * H_, team);
  }
}

void DirectionBackward::pack_for_products(const Team& team) {
  const auto share = [&](const TrainPanels& form, const float* from, const Lease& to) {
    pack_rows(from, form.n, form, team.begin(form.blocks()), team.end(form.blocks()), to.floats());
  };
  if (to_.dw != nullptr) share(x_form(), tape_.x, packed_x_);
  if (to_.dr != nullptr) share(h_form(), previous(own_.h, K_), packed_h_);
  if (to_.dr != nullptr && layer_.layout.gru_before) {
    share(h_form(), own_.reset.floats(), packed_reset_);
  }
  if (projected_ && to_.dprojection != nullptr) {
    share({rows(), H_, V_}, own_.hidden.floats(), packed_hidden_);
  }
  if (to_.dx == nullptr) return;
  const TrainPanels form = input_form();
  pack_gate_rows(layer_, tape_.weights.w + d_ * layer_.G * H_ * I_, form, 0,
                 layer_.layout.input_slots, team.begin(form.blocks()), team.end(form.blocks()),
                 input_weights_.floats());
}

void DirectionBackward::input_gradient(const Team& team) {
  const int64_t first = team.begin(rows());
  float* dx = tape_.sorted ? sorted_dx_.floats() : to_.dx;
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
  args.c = dx + first * I_;
  args.init = d_ > 0 && !tape_.sorted ? args.c : nullptr;
  args.ldi = args.ldc = I_;
  args.init_block = args.c_block = form.columns();
  if (args.m > 0) layer_.kernels->train->product(args);
}

void DirectionBackward::peephole_gradient(int64_t begin, int64_t end) {
  float* sums = sums_.floats() + panels_ * S_ * V_;
  const int64_t first = begin * V_, last = std::min(H_, end * V_);
  if (first >= last) return;
  for (int gate = 0; gate < 3; ++gate) {
    const float* c = gate == 1 ? next(own_.c, H_) : previous(own_.c, H_);
    clear(sums + gate * H_ + first, last - first);
    for (int64_t unit = first; unit < last; unit += V_) {
      layer_.kernels->train->add_row_products(slots_at(unit / V_, 0) + gate * V_, S_ * V_, c + unit,
                                              H_, rows(), std::min(V_, last - unit),
                                              sums + gate * H_ + unit);
    }
  }
}

void DirectionBackward::finish() {
  const auto& layout = layer_.layout;
  const int64_t G = layer_.G;
  for (int64_t u = 0; to_.db != nullptr && u < H_; ++u) {
    const float* sums = sums_.floats() + u / V_ * S_ * V_ + u % V_;
    float* db = to_.db + d_ * 2 * G * H_;
    for (int s = 0; s < layout.input_slots; ++s) {
      db[layout.gate[s] * H_ + u] = db[(G + layout.gate[s]) * H_ + u] = sums[s * V_];
    }
    if (layout.gru_after) db[(G + 2) * H_ + u] = sums[3 * V_];
  }
  if (to_.dp != nullptr) {
    copy(to_.dp + d_ * 3 * H_, sums_.floats() + panels_ * S_ * V_, 3 * H_);
  }
  for (int64_t i = 0; i < N_; ++i) {
    const int64_t row = d_ * N_ + tape_.row(i);
    if (to_.dh0 != nullptr) copy(to_.dh0 + row * K_, dh_.floats() + i * K_, K_);
    if (to_.dc0 != nullptr) copy(to_.dc0 + row * H_, dc_.floats() + i * H_, H_);
  }
  if (to_.dx == nullptr || !tape_.sorted) return;
  for (int64_t t = 0; t < T_; ++t) {
    for (int64_t i = 0; i < N_; ++i) {
      const float* from = sorted_dx_.floats() + (t * N_ + i) * I_;
      float* to = to_.dx + (t * N_ + tape_.row(i)) * I_;
      if (d_ == 0) {
        copy(to, from, I_);
      } else {
        layer_.kernels->combine(Binary::kAdd, to, 1, from, 1, to, I_);
      }
    }
  }
}

}  // namespace gruengine
