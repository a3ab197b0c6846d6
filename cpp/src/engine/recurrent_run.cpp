// SPDX-License-Identifier: MIT
// The loops of the recurrent node over time, rows and threads.
#include <algorithm>
#include <cstring>

#include "engine/recurrent.h"
#include "engine/recurrent_stack.h"

namespace gruengine {
namespace {

// Bytes of weights that stay in L2 in any order of panels.
constexpr int64_t kKept = int64_t{1} << 20;

void copy(float* to, const float* from, int64_t n) {
  if (n > 0 && to != from) std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
}

void clear(float* to, int64_t n) { std::fill(to, to + n, 0.0f); }

}  // namespace

void RecurrentPlan::share_steps() {
  const bool fused = chunk_steps == 0;
  for (CellDirection& direction : directions) {
    for (CellPhase& phase : direction.phases) {
      const int64_t vector = phase.gates * kernels->width;
      StepArgs& args = phase.step;
      args.rows = N;
      args.panel_end = panels;
      args.hidden = H;
      args.input = fused ? I : 0;
      args.recurrent = K;
      args.ldx = I;
      args.ldh = K;
      args.z = phase.bias;
      args.ldz = fused ? 0 : panels * vector;
      args.bias_h = phase.bias_h;
      args.peephole = phase.peephole;
      args.ldc = args.ldc_out = C;
      args.ldh_out = H;
      args.ldg = H;
      args.params = &direction.params;
      if (low != nullptr) continue;
      args.w = phase.w.data + (fused ? 0 : I * vector);
      args.panel_stride = phase.w.block_stride;
    }
  }
}

void RecurrentPlan::run_plain_step(const Frame& frame) const {
  start(frame);
  char* rows = low != nullptr ? frame.at<char>(prepared) : nullptr;
  for (int64_t d = 0; d < D; ++d) {
    const CellPhase& phase = directions[static_cast<size_t>(d)].phases[0];
    StepArgs args = phase.step;
    args.x = frame.at<float>(x);
    args.h = frame.at<float>(h0) + d * N * K;
    args.c = args.c_out = frame.at<float>(c) + d * N * C;
    args.h_out = frame.at<float>(y) + d * N * K;
    args.backwards = first_sweep() % 2 != 0;
    step_cells(phase, args, rows);
  }
  finish(frame);
}

void RecurrentPlan::start(const Frame& frame) const {
  if (C > 0) copy(frame.at<float>(c), frame.at<float>(c0), D * N * C);
}

RecurrentPlan::Sequence RecurrentPlan::sequence(const Frame& frame, int d) const {
  const CellDirection& direction = directions[static_cast<size_t>(d)];
  const int64_t lane = lanes > 1 ? d : 0;
  Sequence s{};
  s.direction = &direction;
  s.x = frame.at<float>(x);
  s.y = frame.at<float>(y) + d * N * K;
  s.y_step = D * N * K;
  s.h0 = frame.at<float>(h0) + d * N * K;
  s.c = frame.at<float>(c) + d * N * C;
  s.backwards = direction.reverse;
  if (chunk_steps > 0) {
    const int64_t gates = cell == Cell::kRnn ? 1 : cell == Cell::kLstm ? 4 : 3;
    s.z = frame.at<float>(z) + lane * chunk_steps * N * gates * panels * kernels->width;
  }
  if (projected) s.hidden = frame.at<float>(hidden) + lane * N * H;
  if (direction.phases.size() > 1) {
    s.gate = frame.at<float>(gate) + lane * N * H;
    s.reset = frame.at<float>(reset) + lane * N * H;
  }
  if (low != nullptr) s.prepared = frame.at<char>(prepared) + lane * member_bytes;
  if (blends) {
    s.new_h = frame.at<float>(new_h) + lane * N * K;
    s.new_c = frame.at<float>(new_c) + lane * N * C;
  }
  if (by_rows) {
    s.sums = frame.at<float>(sums) + lane * row_floats();
    s.hats = frame.at<float>(hats) + lane * row_floats();
    s.squashed = frame.at<float>(squashed) + lane * H;
  }
  s.sweeps = first_sweep();
  return s;
}

void RecurrentPlan::finish(const Frame& frame) const {
  const int64_t h_size = N * K, c_size = N * C;
  for (int64_t d = 0; d < D; ++d) {
    float* h0_at = frame.at<float>(h0) + d * h_size;
    const float* last = h0_at;
    if (T > 0) {
      const bool reverse = directions[static_cast<size_t>(d)].reverse;
      last = frame.at<float>(y) + (d + (reverse ? 0 : T - 1) * D) * h_size;
    }
    if (wants_y_h) copy(frame.at<float>(y_h) + d * h_size, last, h_size);
    if (wants_y_c) {
      copy(frame.at<float>(y_c) + d * c_size, frame.at<float>(c) + d * c_size, c_size);
    }
    if (carried) copy(h0_at, last, h_size);
  }
}

bool RecurrentPlan::run_lengths(const Frame& frame) const {
  if (!has_lengths || !sort_rows(frame)) return false;
  for (int d = 0; d < D; ++d) run_sorted(frame, d);
  return true;
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

RecurrentPlan::Sequence RecurrentPlan::sorted_sequence(const Frame& frame, int d) const {
  Sequence s = sequence(frame, d);
  s.x = frame.at<float>(sorted_x);
  s.y = frame.at<float>(sorted_y);
  s.y_step = N * K;
  s.h0 = frame.at<float>(sorted_h);
  s.c = frame.at<float>(sorted_c);
  s.backwards = false;
  s.lengths = frame.at<int64_t>(order) + N;
  return s;
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
  float* c_at = frame.at<float>(c) + d * N * C;
  const auto time_of = [&](int64_t i, int64_t s) {
    return direction.reverse ? length[i] - 1 - s : s;
  };
  for (int64_t i = 0; i < N; ++i) {
    copy(hs + i * K, h_at + rows[i] * K, K);
    if (C > 0) copy(cs + i * C, frame.at<float>(c0) + (d * N + rows[i]) * C, C);
    for (int64_t s = 0; s < T; ++s) {
      float* to = xs + (s * N + i) * I;
      if (s < length[i]) {
        copy(to, x_at + (time_of(i, s) * N + rows[i]) * I, I);
      } else {
        clear(to, I);
      }
    }
  }
  const Sequence of_rows = sorted_sequence(frame, d);
  const bool shared = frame.threads > 1 && !rare() && worth_sharing(*this);
  run_helped(shared ? frame.threads : 1, worth_waking(*this),
             [&](Team& team) { run_steps(of_rows, 0, T, team); });
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
      float* to = frame.at<float>(y_c) + (d * N + row) * C;
      empty ? clear(to, C) : copy(to, cs + i * C, C);
    }
    if (carried) copy(h_at + row * K, last, K);
    if (carried && C > 0) copy(c_at + row * C, cs + i * C, C);
  }
}

// Claims the sweeps of one run. Steps take their panels to and fro, so that weights that outgrow
// the cache start with the panels that the last step left there; single steps need a count for it.
uint32_t RecurrentPlan::first_sweep() const {
  if (by_rows) return 0;
  const CellPhase& phase = directions[0].phases[0];
  const int64_t bytes = low != nullptr ? phase.low.block_stride : phase.w.block_stride * 4;
  if (panels * bytes <= kKept) return 0;
  return sweeps.fetch_add(static_cast<uint32_t>(T), std::memory_order_relaxed);
}

int64_t RecurrentPlan::weight_bytes() const {
  int64_t bytes = 0;
  for (const CellPhase& phase : directions[0].phases) {
    bytes += panels * (low != nullptr ? phase.low.block_stride : phase.w.block_stride * 4);
  }
  return chunk_steps > 0 ? bytes * K / std::max<int64_t>(1, I + K) : bytes;
}

int64_t RecurrentPlan::products() const {
  const int64_t gates = cell == Cell::kRnn ? 1 : cell == Cell::kLstm ? 4 : 3;
  return gates * H * (K + (chunk_steps > 0 ? 0 : I)) * N;
}

int64_t RecurrentPlan::rate() const {
  const int64_t floats = 3 * kernels->width;  // 48 with 16 lanes
  return low == nullptr || low->weight_bytes > 1 ? floats : 4 * floats;
}

void RecurrentPlan::run_steps(const Sequence& s, int64_t from, int64_t to, Team& team) const {
  const int64_t chunk = std::max<int64_t>(chunk_steps, 1);
  const int64_t back = s.backwards ? 1 : -1;  // to the step before
  int64_t rows = N;
  for (int64_t done = from; done < to; done += chunk) {
    const int64_t steps = std::min(chunk, to - done);
    const int64_t first = s.backwards ? T - done - steps : done;
    for (int64_t k = 0; k < steps; ++k) {
      const int64_t now = s.backwards ? T - 1 - done - k : done + k;
      while (s.lengths != nullptr && rows > 0 && s.lengths[rows - 1] <= now) --rows;
      if (rows == 0) return;
      const float* h = done + k == 0 ? s.h0 : s.y + (now + back) * s.y_step;
      step(s, {now, first, k == 0 && chunk_steps > 0 ? steps : 0, rows, h}, team);
    }
  }
}

StepArgs RecurrentPlan::step_args(const Sequence& s, const CellPhase& phase,
                                  const Moment& moment) const {
  StepArgs args = phase.step;
  args.rows = moment.rows;
  args.x = s.x + moment.now * N * I;
  args.h = moment.h;
  args.c = args.c_out = s.c;
  args.h_out = projected ? s.hidden : s.y + moment.now * s.y_step;
  args.gate = s.gate;
  if (phase.kind == StepKind::kGruBeforeGates) args.h_out = s.reset;
  if (phase.kind == StepKind::kGruBeforeUpdate) {
    args.h = s.reset;
    args.c = moment.h;
    args.ldc = K;
  }
  args.backwards = (s.sweeps + static_cast<uint32_t>(moment.now)) % 2 != 0;
  return args;
}

void RecurrentPlan::step(const Sequence& s, const Moment& moment, Team& team) const {
  if (rare()) {
    return team.share([&](int part) {
      if (part == 0) step_alone(s, moment);
    });
  }
  const float* z_at = s.z;
  int64_t fresh = moment.fresh;
  for (const CellPhase& phase : s.direction->phases) {
    const int64_t columns = panels * phase.gates * kernels->width;
    team.share([&](int part) {
      if (fresh > 0) project_inputs(s, moment.first, fresh, team, part);
      StepArgs args = step_args(s, phase, moment);
      args.panel_begin = team.begin(panels, part);
      args.panel_end = team.end(panels, part);
      if (chunk_steps > 0) args.z = z_at + (moment.now - moment.first) * N * columns;
      step_cells(phase, args, member(s, team));
    });
    z_at += chunk_steps * N * columns;
    fresh = 0;
  }
  if (!projected) return;
  team.share([&](int part) { project(s, moment.rows, s.y + moment.now * s.y_step, team, part); });
}

}  // namespace gruengine
