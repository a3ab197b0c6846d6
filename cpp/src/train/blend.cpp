// SPDX-License-Identifier: MIT
#include "train/blend.h"

#include "engine/skip.h"

namespace gruengine {

Blend::Blend(const RecurrentTraining::Impl& layer, RecurrentTape::Data& tape, int64_t d)
    : DirectionPass(layer, tape, d) {
  if (own_.new_h.floats() != nullptr) return;  // the forward pass was here
  own_.new_h = take(T_ * N_ * K_);
  if (C_ > 0) own_.new_c = take(T_ * N_ * C_);
  if (!tape.skips()) return;
  own_.probability = take(T_ * N_);
  scratch_ = take(N_ * K_);
}

const float* Blend::mask(const float* masks, int64_t t, int64_t row, int64_t size) const {
  return masks == nullptr ? nullptr : masks + ((d_ * T_ + t) * N_ + tape_.row(row)) * size;
}

void Blend::zone(const float* keep, float share, const float* before, const float* given, int64_t n,
                 float* to) const {
  for (int64_t j = 0; j < n; ++j) {
    const float k = keep != nullptr ? keep[j] : share;
    to[j] = k * before[j] + (1.0f - k) * given[j];
  }
}

void Blend::forward(int64_t t, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    if (tape_.skips()) {
      skip(t, row);
      continue;
    }
    zone(mask(tape_.keep_h, t, row, K_), layer_.zoneout_h, h_at(before(t), row), new_h_at(t, row),
         K_, h_at(after(t), row));
    if (C_ == 0) continue;
    zone(mask(tape_.keep_c, t, row, H_), layer_.zoneout_c, c_at(before(t), row), new_c_at(t, row),
         H_, c_at(after(t), row));
    copy(c_at(after(t), row) + H_, new_c_at(t, row) + H_, C_ - H_);
  }
}

void Blend::skip(int64_t t, int64_t row) {
  const float left = c_at(before(t), row)[C_ - 1];
  const bool update = updates(left);
  float* h = h_at(after(t), row);
  float* c = c_at(after(t), row);
  copy(h, update ? new_h_at(t, row) : h_at(before(t), row), K_);
  copy(c, update ? new_c_at(t, row) : c_at(before(t), row), C_ - 1);
  const float p =
      update_probability(*layer_.kernels, skip_weights(), K_, h, scratch_.floats() + row * K_);
  own_.probability.floats()[t * N_ + row] = p;
  c[C_ - 1] = next_left(update, p, left);
}

void Blend::prepare() {
  direct_h_ = take(N_ * K_);
  if (C_ > 0) direct_c_ = take(N_ * C_);
  if (!tape_.skips()) return;
  dlogit_ = take(T_ * N_);
  clear(dlogit_.floats(), T_ * N_);
}

void Blend::split_zone(const float* keep, float share, int64_t n, float* d, float* direct) const {
  for (int64_t j = 0; j < n; ++j) {
    const float k = keep != nullptr ? keep[j] : share;
    direct[j] = k * d[j];
    d[j] = (1.0f - k) * d[j];
  }
}

void Blend::split(int64_t t, int64_t begin, int64_t n, float* dh, float* dc) {
  for (int64_t row = begin; row < begin + n; ++row) {
    if (tape_.skips()) {
      split_skip(t, row, dh + row * K_, dc + row * C_);
      continue;
    }
    split_zone(mask(tape_.keep_h, t, row, K_), layer_.zoneout_h, K_, dh + row * K_,
               direct_h_.floats() + row * K_);
    if (C_ == 0) continue;
    float* direct = direct_c_.floats() + row * C_;
    split_zone(mask(tape_.keep_c, t, row, H_), layer_.zoneout_c, H_, dc + row * C_, direct);
    clear(direct + H_, C_ - H_);
  }
}

// Straight through: the decision's derivative by the accumulated probability is taken for 1.
void Blend::split_skip(int64_t t, int64_t row, float* dh, float* dc) {
  const float *h_before = h_at(before(t), row), *h_new = new_h_at(t, row);
  const float *c_before = c_at(before(t), row), *c_new = new_c_at(t, row);
  const float left = c_before[C_ - 1];
  const bool update = updates(left);
  const float p = own_.probability.floats()[t * N_ + row];
  const float daccumulated = -dc[C_ - 1];
  const bool adds = update || p < left;
  const float dlogit = adds ? daccumulated * p * (1.0f - p) : 0.0f;
  dlogit_.floats()[t * N_ + row] = dlogit;
  for (int64_t k = 0; k < K_; ++k) dh[k] += dlogit * skip_weights()[k];
  double du = double{daccumulated} * (p - (1.0f - left + std::min(p, left)));
  for (int64_t k = 0; k < K_; ++k) du += double{dh[k]} * (h_new[k] - h_before[k]);
  for (int64_t k = 0; k < C_ - 1; ++k) du += double{dc[k]} * (c_new[k] - c_before[k]);
  du += layer_.skip_cost / static_cast<float>(N_);
  if (!update && p < left) du += daccumulated;
  float *direct_h = direct_h_.floats() + row * K_, *direct_c = direct_c_.floats() + row * C_;
  dc[C_ - 1] = 0.0f;
  copy(direct_h, dh, K_);
  copy(direct_c, dc, C_);
  if (update) {
    clear(direct_h, K_);
    clear(direct_c, C_);
  } else {
    clear(dh, K_);
    clear(dc, C_);
  }
  direct_c[C_ - 1] = static_cast<float>(-du);
}

void Blend::join(int64_t begin, int64_t n, float* dh, float* dc) const {
  const auto add = [&](const Lease& direct, int64_t size, float* to) {
    float* at = to + begin * size;
    layer_.kernels->combine(Binary::kAdd, at, 1, direct.floats() + begin * size, 1, at, n * size);
  };
  if (n <= 0) return;
  add(direct_h_, K_, dh);
  if (C_ > 0) add(direct_c_, C_, dc);
}

void Blend::skip_gradient(float* to) const {
  clear(to, K_ + 1);
  for (int64_t t = 0; t < T_; ++t) {
    for (int64_t row = 0; row < N_; ++row) {
      const float dlogit = dlogit_.floats()[t * N_ + row];
      const float* h = h_at(after(t), row);
      for (int64_t k = 0; k < K_; ++k) to[k] += dlogit * h[k];
      to[K_] += dlogit;
    }
  }
}

}  // namespace gruengine
