// SPDX-License-Identifier: MIT
#include "train/lstm_by_rows.h"

#include <algorithm>

namespace gruengine {

LstmByRows::LstmByRows(const RecurrentTraining::Impl& layer, RecurrentTape::Data& tape, int64_t d)
    : DirectionPass(layer, tape, d) {
  if (own_.gates.floats() != nullptr) return;  // the forward pass was here
  const int64_t width = 4 * H_;
  own_.gates = take(rows() * width);
  own_.squashed = take(rows() * H_);
  own_.scales = take(3 * rows());
  if (tape.normed()) {
    own_.x_hat = take(rows() * width);
    own_.h_hat = take(rows() * width);
    own_.c_hat = take(rows() * H_);
  }
  w_ = take(TrainPanels{I_, width, V_}.floats());
  r_ = take(TrainPanels{K_, width, V_}.floats());
  if (tape.fed()) f_ = take(TrainPanels{fed(), fed(), V_}.floats());
  bias_ = take(width + V_);
  clear(bias_.floats(), width + V_);
  const float* b = tape.weights.b == nullptr ? nullptr : tape.weights.b + d * 2 * width;
  for (int64_t j = 0; b != nullptr && j < width; ++j) bias_.floats()[j] = b[j] + b[width + j];
}

LstmRow LstmByRows::cell() const {
  const auto& w = tape_.weights;
  return {layer_.kernels, H_, w.p == nullptr ? nullptr : w.p + d_ * 3 * H_,
          w.norm == nullptr ? nullptr : w.norm + d_ * 10 * H_, layer_.epsilon};
}

void LstmByRows::pack(const Team& team) {
  const auto& w = tape_.weights;
  const auto share = [&](const float* from, const TrainPanels& form, const Lease& to) {
    pack_transposed(from, form, team.begin(form.blocks()), team.end(form.blocks()), to.floats());
  };
  share(w.w + d_ * 4 * H_ * I_, {I_, 4 * H_, V_}, w_);
  share(w.r + d_ * 4 * H_ * K_, {K_, 4 * H_, V_}, r_);
  if (tape_.fed()) share(w.gate_recurrence + d_ * fed() * fed(), {fed(), fed(), V_}, f_);
}

void LstmByRows::multiply(const float* a, int64_t lda, int64_t m, const Lease& b,
                          const TrainPanels& form, const float* init, int64_t ldi, float* c,
                          int64_t ldc) const {
  if (m <= 0) return;
  ProductArgs args{};
  args.m = m;
  args.n = form.n;
  args.k = form.k;
  args.runs = 1;
  args.a = a;
  args.lda = lda;
  args.b = b.floats();
  args.block_stride = form.block_stride();
  args.nv = form.nv();
  args.init = init;
  args.ldi = ldi;
  args.init_block = args.c_block = form.columns();
  args.c = c;
  args.ldc = ldc;
  layer_.kernels->train->product(args);
}

void LstmByRows::multiply_inputs(const Team& team) {
  const int64_t first = team.begin(rows()), end = team.end(rows()), width = 4 * H_;
  const LstmRow row = cell();
  multiply(tape_.x + first * I_, I_, end - first, w_, {I_, width, V_},
           tape_.normed() ? nullptr : bias_.floats(), 0, at(own_.gates, first, width), width);
  if (!tape_.normed()) return;
  for (int64_t i = first; i < end; ++i) {
    scales(0)[i] =
        row.normalise_inputs(bias_.floats(), at(own_.x_hat, i, width), at(own_.gates, i, width));
  }
}

void LstmByRows::step(int64_t t, int64_t begin, int64_t n, float* output) {
  const float* states = operands(false) + (t * N_ + begin) * K_;
  const int64_t first = t * N_ + begin, width = 4 * H_;
  float* a = at(own_.gates, first, width);
  const LstmRow row = cell();
  const TrainPanels form{K_, width, V_};
  if (tape_.normed()) {
    float* hat = at(own_.h_hat, first, width);
    multiply(states, K_, n, r_, form, nullptr, 0, hat, width);
    for (int64_t i = 0; i < n; ++i) {
      scales(1)[first + i] = row.add_states(hat + i * width, a + i * width);
    }
  } else {
    multiply(states, K_, n, r_, form, a, width, a, width);
  }
  if (tape_.fed()) {
    multiply(c_at(before(t), begin) + H_, C_, n, f_, {fed(), fed(), V_}, a, width, a, width);
  }
  for (int64_t i = 0; i < n; ++i) {
    float* c = new_c_at(t, begin + i);
    float* gates = a + i * width;
    float* hat = tape_.normed() ? at(own_.c_hat, first + i, H_) : nullptr;
    scales(2)[first + i] = row.update({gates, c_at(before(t), begin + i), c, hat,
                                       at(own_.squashed, first + i, H_), output + i * H_});
    copy(c + H_, gates, fed());
  }
}

void LstmByRows::prepare(const ProductGradients& to) {
  to_ = to;
  packed_x_ = take(TrainPanels{rows(), I_, V_}.floats());
  packed_h_ = take(TrainPanels{rows(), K_, V_}.floats());
  const auto& w = tape_.weights;
  const int64_t width = 4 * H_;
  const auto pack = [&](const float* from, const TrainPanels& form, Lease& to) {
    to = take(form.floats());
    pack_rows(from, form.n, form, 0, form.blocks(), to.floats());
  };
  pack(w.w + d_ * width * I_, {width, I_, V_}, w_);
  pack(w.r + d_ * width * K_, {width, K_, V_}, r_);
  if (tape_.fed()) pack(w.gate_recurrence + d_ * fed() * fed(), {fed(), fed(), V_}, f_);
  deltas_ = take(N_ * width);
  dn_ = take(rows() * H_);
  if (tape_.normed()) dstates_ = take(rows() * width);
  if (tape_.fed()) dgates_ = take(N_ * fed());
  if (tape_.fed()) packed_gates_ = take(TrainPanels{rows(), fed(), V_}.floats());
}

void LstmByRows::step_back(int64_t t, int64_t begin, int64_t n, const float* dh_new, float* dh,
                           float* dc) {
  const int64_t first = t * N_ + begin, width = 4 * H_;
  const LstmRow row = cell();
  for (int64_t i = 0; i < n; ++i) {
    const int64_t r = first + i;
    float* gates = at(own_.gates, r, width);
    float* da = at(deltas_, begin + i, width);
    const float* fed_back = nullptr;
    if (tape_.fed()) {
      copy(at(dgates_, begin + i, fed()), dc + i * C_ + H_, fed());
      fed_back = at(dgates_, begin + i, fed());
    }
    row.gradient({gates, c_at(before(t), begin + i), new_c_at(t, begin + i),
                  tape_.normed() ? at(own_.c_hat, r, H_) : nullptr, at(own_.squashed, r, H_),
                  scales(2)[r], dh_new + i * H_, dc + i * C_, fed_back, at(dn_, r, H_), da});
    copy(gates, da, width);
    if (!tape_.normed()) continue;
    float* ds = at(dstates_, r, width);
    for (int64_t j = 0; j < width; ++j) ds[j] = row.gain_h()[j] * da[j];
    row.normalise_back(at(own_.h_hat, r, width), scales(1)[r], width, ds);
  }
  multiply(state_deltas() + first * width, width, n, r_, {width, K_, V_}, nullptr, 0, dh, K_);
  if (tape_.fed()) {
    multiply(at(own_.gates, first, width), width, n, f_, {fed(), fed(), V_}, nullptr, 0, dc + H_,
             C_);
  }
}

// Rows past their length have no deltas, and nothing to multiply them with.
void LstmByRows::clear_dead() {
  for (int64_t t = 0; t < T_ && tape_.sorted; ++t) {
    const int64_t first = t * N_ + tape_.live_at(t), n = N_ - tape_.live_at(t);
    clear(at(own_.gates, first, 4 * H_), n * 4 * H_);
    clear(at(dn_, first, H_), n * H_);
    if (!tape_.normed()) continue;
    clear(at(own_.h_hat, first, 4 * H_), n * 4 * H_);
    clear(at(own_.c_hat, first, H_), n * H_);
    clear(at(dstates_, first, 4 * H_), n * 4 * H_);
  }
}

void LstmByRows::vector_gradients(const RecurrentTraining::Gradients& to) const {
  const int64_t width = 4 * H_;
  const TrainTable& train = *layer_.kernels->train;
  const float* deltas = own_.gates.floats();
  if (to.db != nullptr) {
    float* db = to.db + d_ * 2 * width;
    clear(db, width);
    train.add_rows(deltas, rows(), width, width, db);
    copy(db + width, db, width);
  }
  for (int64_t g = 0; g < 3 && to.dp != nullptr; ++g) {
    const float* c = g == 1 ? new_c_at(0, 0) : c_at(before(0), 0);
    float* dp = to.dp + (d_ * 3 + g) * H_;
    clear(dp, H_);
    train.add_row_products(deltas + g * H_, width, c, C_, rows(), H_, dp);
  }
  if (to.dnorm == nullptr || !tape_.normed()) return;
  float* gain_x = to.dnorm + d_ * 10 * H_;
  float *gain_h = gain_x + width, *gain_c = gain_h + width, *shift_c = gain_c + H_;
  clear(gain_x, 10 * H_);
  train.add_row_products(deltas, width, own_.x_hat.floats(), width, rows(), width, gain_x);
  train.add_row_products(deltas, width, own_.h_hat.floats(), width, rows(), width, gain_h);
  train.add_row_products(dn_.floats(), H_, own_.c_hat.floats(), H_, rows(), H_, gain_c);
  train.add_rows(dn_.floats(), rows(), H_, H_, shift_c);
}

void LstmByRows::finish_steps(const RecurrentTraining::Gradients& to) {
  clear_dead();
  vector_gradients(to);
  if (!tape_.normed()) return;
  const int64_t width = 4 * H_;
  const LstmRow row = cell();
  for (int64_t r = 0; r < rows(); ++r) {
    const float* da = at(own_.gates, r, width);
    float* dv = deltas_.floats();
    for (int64_t j = 0; j < width; ++j) dv[j] = row.gain_x()[j] * da[j];
    row.normalise_back(at(own_.x_hat, r, width), scales(0)[r], width, dv);
    copy(at(own_.x_hat, r, width), dv, width);
  }
}

void LstmByRows::pack_gradients(const Team& team) {
  const auto share = [&](const float* from, int64_t ld, int64_t n, const Lease& to) {
    const TrainPanels form{rows(), n, V_};
    pack_rows(from, ld, form, team.begin(form.blocks()), team.end(form.blocks()), to.floats());
  };
  if (to_.dw != nullptr) share(tape_.x, I_, I_, packed_x_);
  if (to_.dr != nullptr) share(operands(false), K_, K_, packed_h_);
  if (tape_.fed()) share(c_at(before(0), 0) + H_, C_, fed(), packed_gates_);
}

void LstmByRows::input_gradient(const Team& team) const {
  if (to_.dx == nullptr) return;
  const int64_t first = team.begin(rows()), width = 4 * H_;
  float* to = to_.dx + first * I_;
  multiply(input_deltas() + first * width, width, team.end(rows()) - first, w_, {width, I_, V_},
           to_.adds ? to : nullptr, I_, to, I_);
}

void LstmByRows::weight_gradients(const Team& team, const RecurrentTraining::Gradients& to) const {
  const int64_t width = 4 * H_;
  const auto product = [&](const float* deltas, int64_t m, const Lease& b, int64_t n, float* dw) {
    if (dw == nullptr) return;
    transposed_product(*layer_.kernels, deltas, width, m, b.floats(), {rows(), n, V_}, false, dw,
                       team);
  };
  product(input_deltas(), width, packed_x_, I_, to_.dw);
  product(state_deltas(), width, packed_h_, K_, to_.dr);
  if (!tape_.fed() || to.dgate_recurrence == nullptr) return;
  product(own_.gates.floats(), fed(), packed_gates_, fed(),
          to.dgate_recurrence + d_ * fed() * fed());
}

}  // namespace gruengine
