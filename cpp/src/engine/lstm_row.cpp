// SPDX-License-Identifier: MIT
#include "engine/lstm_row.h"

#include <cmath>

namespace gruengine {
namespace {

constexpr FunctionSpec kSigmoid{Function::kSigmoid, 0.0f, 0.0f};
constexpr FunctionSpec kTanh{Function::kTanh, 0.0f, 0.0f};

}  // namespace

float LstmRow::normalise(const float* x, int64_t n, float* y) const {
  float mean = 0, squares = 0;
  kernels->reduce(Reduce::kMean, x, 1, n, n, &mean);
  kernels->combine(Binary::kSub, x, 1, &mean, 0, y, n);
  kernels->reduce(Reduce::kSumSquare, y, 1, n, n, &squares);
  const float scale = 1.0f / std::sqrt(squares / static_cast<float>(n) + epsilon);
  kernels->combine(Binary::kMul, y, 1, &scale, 0, y, n);
  return scale;
}

float LstmRow::normalise_inputs(const float* bias, float* hat, float* a) const {
  const float scale = normalise(a, 4 * H, hat);
  const float* gain = gain_x();
  for (int64_t j = 0; j < 4 * H; ++j) a[j] = gain[j] * hat[j] + bias[j];
  return scale;
}

float LstmRow::add_states(float* hat, float* a) const {
  const float scale = normalise(hat, 4 * H, hat);
  const float* gain = gain_h();
  for (int64_t j = 0; j < 4 * H; ++j) a[j] += gain[j] * hat[j];
  return scale;
}

float LstmRow::update(const Cell& at) const {
  float *i = at.a, *o = i + H, *f = o + H, *g = f + H;
  if (peephole != nullptr) {
    for (int64_t u = 0; u < H; ++u) i[u] += peephole[u] * at.c[u];
    for (int64_t u = 0; u < H; ++u) f[u] += peephole[2 * H + u] * at.c[u];
  }
  kernels->map(kSigmoid, i, i, H);
  kernels->map(kSigmoid, f, f, H);
  kernels->map(kTanh, g, g, H);
  for (int64_t u = 0; u < H; ++u) at.c_out[u] = f[u] * at.c[u] + i[u] * g[u];
  if (peephole != nullptr) {
    for (int64_t u = 0; u < H; ++u) o[u] += peephole[H + u] * at.c_out[u];
  }
  kernels->map(kSigmoid, o, o, H);
  float scale = 1.0f;
  const float* out = at.c_out;
  if (norm != nullptr) {
    scale = normalise(at.c_out, H, at.hat);
    for (int64_t u = 0; u < H; ++u) at.squashed[u] = gain_c()[u] * at.hat[u] + shift_c()[u];
    out = at.squashed;
  }
  kernels->map(kTanh, out, at.squashed, H);
  for (int64_t u = 0; u < H; ++u) at.h_out[u] = o[u] * at.squashed[u];
  return scale;
}

void LstmRow::gradient(const CellGradient& at) const {
  const float *i = at.gates, *o = i + H, *f = o + H, *g = f + H;
  float *da_i = at.da, *da_o = da_i + H, *da_f = da_o + H, *da_g = da_f + H;
  for (int64_t u = 0; u < H; ++u) {
    const float fed = at.dgates != nullptr ? at.dgates[H + u] : 0.0f;
    da_o[u] = (at.dh[u] * at.squashed[u] + fed) * o[u] * (1.0f - o[u]);
    at.dn[u] = at.dh[u] * o[u] * (1.0f - at.squashed[u] * at.squashed[u]);
  }
  if (norm != nullptr) {
    for (int64_t u = 0; u < H; ++u) da_i[u] = at.dn[u] * gain_c()[u];
    normalise_back(at.hat, at.scale, H, da_i);
    for (int64_t u = 0; u < H; ++u) at.dc[u] += da_i[u];
  } else {
    for (int64_t u = 0; u < H; ++u) at.dc[u] += at.dn[u];
  }
  for (int64_t u = 0; u < H && peephole != nullptr; ++u) at.dc[u] += peephole[H + u] * da_o[u];
  for (int64_t u = 0; u < H; ++u) {
    const float fed_i = at.dgates != nullptr ? at.dgates[u] : 0.0f;
    const float fed_f = at.dgates != nullptr ? at.dgates[2 * H + u] : 0.0f;
    const float dc = at.dc[u];
    da_i[u] = (dc * g[u] + fed_i) * i[u] * (1.0f - i[u]);
    da_f[u] = (dc * at.c[u] + fed_f) * f[u] * (1.0f - f[u]);
    da_g[u] = dc * i[u] * (1.0f - g[u] * g[u]);
    at.dc[u] = dc * f[u];
  }
  for (int64_t u = 0; u < H && peephole != nullptr; ++u) {
    at.dc[u] += peephole[u] * da_i[u] + peephole[2 * H + u] * da_f[u];
  }
}

void LstmRow::normalise_back(const float* hat, float scale, int64_t n, float* dv) const {
  double sum = 0, along = 0;
  for (int64_t j = 0; j < n; ++j) {
    sum += dv[j];
    along += double{dv[j]} * hat[j];
  }
  const auto mean = static_cast<float>(sum / static_cast<double>(n));
  const auto slope = static_cast<float>(along / static_cast<double>(n));
  for (int64_t j = 0; j < n; ++j) dv[j] = scale * (dv[j] - mean - hat[j] * slope);
}

}  // namespace gruengine
