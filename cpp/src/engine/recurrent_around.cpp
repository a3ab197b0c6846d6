// SPDX-License-Identifier: MIT
// What surrounds the cells of rare recurrent nodes: zoneout, skipped steps, LSTMs by rows.
#include <algorithm>
#include <cstring>

#include "engine/recurrent.h"
#include "engine/skip.h"

namespace gruengine {
namespace {

void copy(float* to, const float* from, int64_t n) {
  if (n > 0 && to != from) std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
}

// to = share * before + (1 - share) * given.
void zone(float share, const float* before, const float* given, int64_t n, float* to) {
  for (int64_t j = 0; j < n; ++j) to[j] = share * before[j] + (1.0f - share) * given[j];
}

}  // namespace

// One step of a direction: its cells, and what surrounds them.
void RecurrentPlan::step_alone(const Sequence& s, const Moment& moment) const {
  if (moment.fresh > 0 && by_rows) {
    multiply_inputs(s, s.x + moment.first * N * I, moment.fresh * N, s.z);
  } else if (moment.fresh > 0) {
    project_inputs(s, moment.first, moment.fresh, Team(), 0);
  }
  float* y_now = s.y + moment.now * s.y_step;
  if (!blends) return compute(s, moment, {0, moment.rows, y_now, s.c});
  if (!skips) compute(s, moment, {0, moment.rows, s.new_h, s.new_c});
  // Those rows alone whose time has come, in runs of neighbours.
  const auto comes = [&](int64_t row) {
    return skips && row < moment.rows && updates(s.c[row * C + C - 1]);
  };
  for (int64_t row = 0; row < moment.rows; ++row) {
    if (!comes(row)) continue;
    const int64_t first = row;
    while (comes(row)) ++row;
    compute(s, moment, {first, row - first, s.new_h, s.new_c});
  }
  blend(s, moment, y_now);
}

void RecurrentPlan::compute(const Sequence& s, const Moment& moment, const Rows& rows) const {
  by_rows ? compute_by_rows(s, moment, rows) : compute_cells(s, moment, rows);
  if (!projected) return;
  Sequence moved = s;
  moved.hidden += rows.first * H;
  project(moved, rows.count, rows.h_out + rows.first * K, Team(), 0);
}

void RecurrentPlan::compute_cells(const Sequence& s, const Moment& moment, const Rows& rows) const {
  const int64_t first = rows.first;
  const float* z_at = s.z;
  for (const CellPhase& phase : s.direction->phases) {
    const int64_t columns = panels * phase.gates * kernels->width;
    StepArgs args = step_args(s, phase, moment);
    args.rows = rows.count;
    args.x += first * I;
    args.h += first * args.ldh;
    if (args.c != nullptr) args.c += first * args.ldc;
    args.c_out = rows.c_out + first * C;
    if (args.h_out != s.reset && !projected) args.h_out = rows.h_out;
    args.h_out += first * H;
    if (args.gate != nullptr) args.gate += first * H;
    if (chunk_steps > 0) args.z = z_at + ((moment.now - moment.first) * N + first) * columns;
    step_cells(phase, args, member(s, Team()));
    z_at += chunk_steps * N * columns;
  }
}

// From what the cells gave to the state after the step and y.
void RecurrentPlan::blend(const Sequence& s, const Moment& moment, float* y) const {
  for (int64_t row = 0; row < moment.rows; ++row) {
    const float* h = moment.h + row * K;
    if (skips) {
      skip_or_take(s, h, y + row * K, row);
      continue;
    }
    zone(zoneout_h, h, s.new_h + row * K, K, y + row * K);
    if (C == 0) continue;
    float* c_at = s.c + row * C;
    zone(zoneout_c, c_at, s.new_c + row * C, H, c_at);
    copy(c_at + H, s.new_c + row * C + H, C - H);
  }
}

void RecurrentPlan::skip_or_take(const Sequence& s, const float* h, float* y, int64_t row) const {
  float* c_at = s.c + row * C;
  const float left = c_at[C - 1];
  const bool update = updates(left);
  copy(y, update ? s.new_h + row * K : h, K);
  if (update) copy(c_at, s.new_c + row * C, C - 1);
  // What was given is read no more, so the sum may use its place.
  const float p = update_probability(*kernels, s.direction->skip, K, y, s.new_h + row * K);
  c_at[C - 1] = next_left(update, p, left);
}

LstmRow RecurrentPlan::row_of(const CellDirection& direction) const {
  return {kernels, H, direction.by_rows.peephole, direction.by_rows.norm, epsilon};
}

// z [rows, 4H]: the share of the inputs in the sums of the gates, with the biases.
void RecurrentPlan::multiply_inputs(const Sequence& s, const float* x_at, int64_t rows,
                                    float* z_at) const {
  const RowWeights& weights = s.direction->by_rows;
  const bool normed = weights.norm != nullptr;
  GemmArgs args{};
  args.m = rows;
  args.a = x_at;
  args.lda = I;
  args.init = normed ? nullptr : weights.bias;
  args.c = z_at;
  args.ldc = 4 * H;
  multiply(weights.w, 0, panels, args, rows_x, member(s, Team()));
  if (!normed) return;
  const LstmRow row = row_of(*s.direction);
  for (int64_t r = 0; r < rows; ++r) row.normalise_inputs(weights.bias, s.hats, z_at + r * 4 * H);
}

void RecurrentPlan::compute_by_rows(const Sequence& s, const Moment& moment,
                                    const Rows& rows) const {
  const RowWeights& weights = s.direction->by_rows;
  const LstmRow row = row_of(*s.direction);
  const int64_t width = 4 * H, first = rows.first;
  if (chunk_steps == 0) {
    multiply_inputs(s, s.x + (moment.now * N + first) * I, rows.count, s.sums);
  } else {
    const int64_t at = (moment.now - moment.first) * N + first;
    copy(s.sums, s.z + at * width, rows.count * width);
  }
  const bool normed = weights.norm != nullptr;
  char* memory = member(s, Team()) + rows_x.bytes();
  GemmArgs args{};
  args.m = rows.count;
  args.a = moment.h + first * K;
  args.lda = K;
  args.init = normed ? nullptr : s.sums;
  args.ldi = width;
  args.c = normed ? s.hats : s.sums;
  args.ldc = width;
  multiply(weights.r, 0, panels, args, rows_h, memory);
  for (int64_t r = 0; normed && r < rows.count; ++r) {
    row.add_states(s.hats + r * width, s.sums + r * width);
  }
  if (fed > 0) {
    args.a = s.c + first * C + H;
    args.lda = C;
    args.init = args.c = s.sums;
    multiply(weights.f, 0, panels, args, rows_fed, memory + rows_h.bytes() + rows_hidden.bytes());
  }
  float* outputs = projected ? s.hidden : rows.h_out;
  for (int64_t r = 0; r < rows.count; ++r) {
    float* c_out = rows.c_out + (first + r) * C;
    row.update({s.sums + r * width, s.c + (first + r) * C, c_out, s.hats, s.squashed,
                outputs + (first + r) * H});
    copy(c_out + H, s.sums + r * width, fed);
  }
}

}  // namespace gruengine
