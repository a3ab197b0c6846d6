// SPDX-License-Identifier: MIT
// The loops of the recurrent node over time, rows and threads.
#include <algorithm>
#include <cstring>

#include "engine/recurrent.h"

namespace gruengine {
namespace {

// Below this many multiply-adds a step is too short to be worth sharing.
constexpr int64_t kSharedStep = int64_t{1} << 17;

// Bytes of weights that stay in L2 in any order of panels.
constexpr int64_t kKept = int64_t{1} << 20;

void copy(float* to, const float* from, int64_t n) {
  if (n > 0 && to != from) std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
}

void clear(float* to, int64_t n) { std::fill(to, to + n, 0.0f); }

}  // namespace

void RecurrentPlan::run(const Frame& frame) const {
  const bool sorted = has_lengths && sort_rows(frame);
  for (int d = 0; d < D; ++d) {
    if (sorted) {
      run_sorted(frame, d);
    } else {
      run_direction(frame, d);
    }
  }
}

void RecurrentPlan::run_direction(const Frame& frame, int d) const {
  const int64_t h_size = N * K, c_size = N * H;
  const CellDirection& direction = directions[static_cast<size_t>(d)];
  float* h0_at = frame.at<float>(h0) + d * h_size;
  float* c_at = frame.at<float>(c) + d * c_size;
  if (cell == Cell::kLstm) copy(c_at, frame.at<float>(c0) + d * c_size, c_size);
  float* y_at = frame.at<float>(y) + d * h_size;
  const Sequence sequence{&direction,
                          frame.at<float>(x),
                          y_at,
                          D * h_size,
                          h0_at,
                          c_at,
                          direction.reverse,
                          nullptr,
                          chunk_steps > 0 ? frame.at<float>(z) : nullptr,
                          projected ? frame.at<float>(hidden) : nullptr,
                          direction.phases.size() > 1 ? frame.at<float>(gate) : nullptr,
                          direction.phases.size() > 1 ? frame.at<float>(reset) : nullptr,
                          low != nullptr ? frame.at<char>(prepared) : nullptr,
                          first_sweep()};
  run_sequence(sequence, frame.threads);
  const float* last = h0_at;
  if (T > 0) last = y_at + (direction.reverse ? 0 : T - 1) * D * h_size;
  if (wants_y_h) copy(frame.at<float>(y_h) + d * h_size, last, h_size);
  if (wants_y_c) copy(frame.at<float>(y_c) + d * c_size, c_at, c_size);
  if (carried) copy(h0_at, last, h_size);
}

// Puts the rows in order of falling length, so that the live ones are always the first. False when
// every row runs to T.
bool RecurrentPlan::sort_rows(const Frame& frame) const {
  auto* rows = frame.at<int64_t>(order);
  int64_t* sorted = rows + N;
  const auto length = [&](int64_t row) {
    return lengths_wide ? frame.at<int64_t>(lengths)[row] : frame.at<int32_t>(lengths)[row];
  };
  bool all_full = true;
  for (int64_t row = 0; row < N; ++row) {
    if (length(row) < 0 || length(row) > T) {
      throw Error(ErrorCode::kInvalidArgument, "length " + std::to_string(length(row)) +
                                                   " of row " + std::to_string(row) +
                                                   "; it must be from 0 to " + std::to_string(T));
    }
    all_full = all_full && length(row) == T;
    rows[row] = row;
  }
  if (all_full) return false;
  std::sort(rows, rows + N, [&](int64_t a, int64_t b) {
    return length(a) != length(b) ? length(a) > length(b) : a < b;
  });
  for (int64_t i = 0; i < N; ++i) sorted[i] = length(rows[i]);
  return true;
}

void RecurrentPlan::run_sorted(const Frame& frame, int d) const {
  const CellDirection& direction = directions[static_cast<size_t>(d)];
  const auto* rows = frame.at<int64_t>(order);
  const int64_t* length = rows + N;
  const auto* x_at = frame.at<float>(x);
  auto* xs = frame.at<float>(sorted_x);
  auto* ys = frame.at<float>(sorted_y);
  auto* hs = frame.at<float>(sorted_h);
  auto* cs = frame.at<float>(sorted_c);
  float* h_at = frame.at<float>(h0) + d * N * K;
  float* c_at = frame.at<float>(c) + d * N * H;
  const bool lstm = cell == Cell::kLstm;
  const auto time_of = [&](int64_t i, int64_t s) {
    return direction.reverse ? length[i] - 1 - s : s;
  };
  for (int64_t i = 0; i < N; ++i) {
    copy(hs + i * K, h_at + rows[i] * K, K);
    if (lstm) copy(cs + i * H, frame.at<float>(c0) + (d * N + rows[i]) * H, H);
    for (int64_t s = 0; s < T; ++s) {
      float* to = xs + (s * N + i) * I;
      if (s < length[i]) {
        copy(to, x_at + (time_of(i, s) * N + rows[i]) * I, I);
      } else {
        clear(to, I);
      }
    }
  }
  const bool two = direction.phases.size() > 1;
  run_sequence({&direction, xs, ys, N * K, hs, cs, false, length,
                chunk_steps > 0 ? frame.at<float>(z) : nullptr,
                projected ? frame.at<float>(hidden) : nullptr,
                two ? frame.at<float>(gate) : nullptr, two ? frame.at<float>(reset) : nullptr,
                low != nullptr ? frame.at<char>(prepared) : nullptr, first_sweep()},
               frame.threads);
  auto* y_at = frame.at<float>(y) + d * N * K;
  for (int64_t i = 0; i < N; ++i) {
    const int64_t row = rows[i];
    for (int64_t s = 0; s < T; ++s) {
      if (s < length[i]) {
        copy(y_at + time_of(i, s) * D * N * K + row * K, ys + (s * N + i) * K, K);
      } else {
        clear(y_at + s * D * N * K + row * K, K);
      }
    }
    const bool empty = length[i] == 0;
    const float* last = empty ? hs + i * K : ys + ((length[i] - 1) * N + i) * K;
    if (wants_y_h) {
      float* to = frame.at<float>(y_h) + (d * N + row) * K;
      empty ? clear(to, K) : copy(to, last, K);
    }
    if (wants_y_c) {
      float* to = frame.at<float>(y_c) + (d * N + row) * H;
      empty ? clear(to, H) : copy(to, cs + i * H, H);
    }
    if (carried) copy(h_at + row * K, last, K);
    if (carried && lstm) copy(c_at + row * H, cs + i * H, H);
  }
}

// Claims the sweeps of one run. Steps take their panels to and fro, so that weights that outgrow
// the cache start with the panels that the last step left there; single steps need a count for it.
uint32_t RecurrentPlan::first_sweep() const {
  const CellPhase& phase = directions[0].phases[0];
  const int64_t bytes = low != nullptr ? phase.low.block_stride : phase.w.block_stride * 4;
  if (panels * bytes <= kKept) return 0;
  return sweeps.fetch_add(static_cast<uint32_t>(T), std::memory_order_relaxed);
}

void RecurrentPlan::run_sequence(const Sequence& sequence, int threads) const {
  if (T == 0 || N == 0) return;
  const int64_t gates = cell == Cell::kRnn ? 1 : cell == Cell::kLstm ? 4 : 3;
  const int64_t work = gates * H * (K + (chunk_steps > 0 ? 0 : I)) * N;
  if (threads <= 1 || work < kSharedStep) {
    Team alone(0, 1, nullptr);
    run_member(sequence, alone);
    return;
  }
  run_team(threads, [&](Team& team) { run_member(sequence, team); });
}

void RecurrentPlan::run_member(const Sequence& s, Team& team) const {
  const int64_t chunk = std::max<int64_t>(chunk_steps, 1);
  const float* h = s.h0;
  int64_t rows = N;
  for (int64_t done = 0; done < T; done += chunk) {
    const int64_t steps = std::min(chunk, T - done);
    const int64_t first = s.backwards ? T - done - steps : done;
    if (chunk_steps > 0) project_inputs(s, first, steps, team);
    for (int64_t k = 0; k < steps; ++k) {
      const int64_t now = s.backwards ? T - 1 - done - k : done + k;
      while (s.lengths != nullptr && rows > 0 && s.lengths[rows - 1] <= now) --rows;
      if (rows == 0) return;
      step(s, now, rows, h, (now - first) * N, team);
      h = s.y + now * s.y_step;
      team.barrier();
    }
  }
}

void RecurrentPlan::step(const Sequence& s, int64_t now, int64_t rows, const float* h,
                         int64_t z_row, Team& team) const {
  const bool fused = chunk_steps == 0;
  float* y_now = s.y + now * s.y_step;
  const float* z_at = s.z;
  for (const CellPhase& phase : s.direction->phases) {
    const int64_t vector = phase.gates * kernels->width, columns = panels * vector;
    StepArgs args{};
    args.rows = rows;
    args.panel_begin = team.begin(panels);
    args.panel_end = team.end(panels);
    args.hidden = H;
    args.input = fused ? I : 0;
    args.recurrent = K;
    args.x = s.x + now * N * I;
    args.ldx = I;
    args.h = h;
    args.ldh = K;
    args.z = fused ? phase.bias : z_at + z_row * columns;
    args.ldz = fused ? 0 : columns;
    args.bias_h = phase.bias_h;
    args.peephole = phase.peephole;
    args.c = args.c_out = s.c;
    args.ldc = args.ldc_out = H;
    args.h_out = projected ? s.hidden : y_now;
    args.ldh_out = H;
    args.gate = s.gate;
    args.ldg = H;
    args.params = &s.direction->params;
    if (phase.kind == StepKind::kGruBeforeGates) args.h_out = s.reset;
    if (phase.kind == StepKind::kGruBeforeUpdate) {
      team.barrier();
      args.h = s.reset;
      args.c = h;
    }
    args.backwards = (s.sweeps + static_cast<uint32_t>(now)) % 2 != 0;
    step_cells(s, phase, args, team);
    z_at += chunk_steps * N * columns;
  }
  if (!projected) return;
  team.barrier();
  project(s, rows, y_now, team);
}

}  // namespace gruengine
