// SPDX-License-Identifier: MIT
// What follows the loop over steps: gradients from the deltas of all steps at once.
#include <algorithm>

#include "train/recurrent_backward.h"

namespace gruengine {

void DirectionBackward::run_products(Team& team) {
  const int64_t begin = team.begin(panels_), end = team.end(panels_);
  clear(sums_.floats() + begin * S_ * V_, (end - begin) * S_ * V_);
  by_rows_ ? by_rows_->pack_gradients(team) : products_->pack_gradients(team);
  const bool projection = projected_ && to_.dprojection != nullptr;
  const TrainPanels form{rows(), H_, V_};
  if (projection) {
    pack_rows(own_.hidden.floats(), H_, form, team.begin(form.blocks()), team.end(form.blocks()),
              packed_hidden_.floats());
  }
  team.barrier();
  if (by_rows_) {
    by_rows_->input_gradient(team);
    by_rows_->weight_gradients(team, to_);
  } else {
    products_->input_gradient(team);
    products_->weight_gradients(sums_.floats(), team);
    if (to_.dp != nullptr) peephole_gradient(begin, end);
  }
  if (!projection) return;
  transposed_product(*layer_.kernels, doutput_.floats(), K_, K_, packed_hidden_.floats(), form,
                     false, to_.dprojection + d_ * K_ * H_, team);
}

void DirectionBackward::peephole_gradient(int64_t begin, int64_t end) {
  float* sums = sums_.floats() + panels_ * S_ * V_;
  const int64_t first = begin * V_, last = std::min(H_, end * V_);
  if (first >= last) return;
  for (int gate = 0; gate < 3; ++gate) {
    const float* c = gate == 1 ? new_c_at(0, 0) : c_at(before(0), 0);
    clear(sums + gate * H_ + first, last - first);
    for (int64_t unit = first; unit < last; unit += V_) {
      layer_.kernels->train->add_row_products(slots_at(unit / V_, 0) + gate * V_, S_ * V_, c + unit,
                                              C_, rows(), std::min(V_, last - unit),
                                              sums + gate * H_ + unit);
    }
  }
}

void DirectionBackward::finish() {
  const auto& layout = layer_.layout;
  const int64_t G = layer_.G;
  for (int64_t u = 0; to_.db != nullptr && u < H_ && !by_rows_; ++u) {
    const float* sums = sums_.floats() + u / V_ * S_ * V_ + u % V_;
    float* db = to_.db + d_ * 2 * G * H_;
    for (int s = 0; s < layout.input_slots; ++s) {
      db[layout.gate[s] * H_ + u] = db[(G + layout.gate[s]) * H_ + u] = sums[s * V_];
    }
    if (layout.gru_after) db[(G + 2) * H_ + u] = sums[3 * V_];
  }
  if (blend_ && to_.dskip != nullptr && tape_.skips()) {
    blend_->skip_gradient(to_.dskip + d_ * (K_ + 1));
  }
  if (to_.dp != nullptr && !by_rows_) {
    copy(to_.dp + d_ * 3 * H_, sums_.floats() + panels_ * S_ * V_, 3 * H_);
  }
  for (int64_t i = 0; i < N_; ++i) {
    const int64_t row = d_ * N_ + tape_.row(i);
    if (to_.dh0 != nullptr) copy(to_.dh0 + row * K_, dh_.floats() + i * K_, K_);
    if (to_.dc0 != nullptr && C_ > 0) copy(to_.dc0 + row * C_, dc_.floats() + i * C_, C_);
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
