// SPDX-License-Identifier: MIT
// Attributes of a layer in training: checked once, turned into slots and kernels.
#include "train/recurrent.h"

#include <algorithm>
#include <cmath>

#include "isa/dispatch.h"
#include "isa/functions.h"

namespace gruengine {
namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorCode::kInvalidArgument, "RecurrentTraining: " + what);
}

CellLayout layout_of(const RecurrentAttributes& a) {
  if (a.cell == "rnn") {
    return {1, 1, {0, 0, 0, 0}, {{StepKind::kRnn, 0, 1, false}}, false, false, false};
  }
  if (a.cell == "lstm") {
    return {4, 4, {0, 1, 2, 3}, {{StepKind::kLstm, 0, 4, false}}, true, false, false};
  }
  if (a.reset == "after") {
    return {4, 3, {2, 0, 1, 2}, {{StepKind::kGruAfter, 1, 3, false}}, false, true, false};
  }
  return {3,
          3,
          {2, 0, 1, 0},
          {{StepKind::kGruBeforeGates, 1, 2, false}, {StepKind::kGruBeforeUpdate, 0, 1, true}},
          false,
          false,
          true};
}

void check(const RecurrentAttributes& a, int64_t input_size, int64_t hidden_size, int threads) {
  const auto one_of = [](const char* name, const std::string& value,
                         std::initializer_list<const char*> allowed) {
    std::string list;
    for (const char* choice : allowed) {
      if (value == choice) return;
      list += (list.empty() ? "'" : ", '") + std::string(choice) + "'";
    }
    refuse(std::string(name) + " is '" + value + "'; it must be one of " + list);
  };
  one_of("cell", a.cell, {"rnn", "lstm", "gru"});
  one_of("direction", a.direction, {"forward", "reverse", "bidirectional"});
  one_of("reset", a.reset, {"after", "before"});
  one_of("update", a.update, {"keep", "take"});
  constexpr int64_t kMaxSize = (int64_t{1} << 31) - 1;
  const auto size = [](const char* name, int64_t value, int64_t most) {
    if (value >= 1 && value <= most) return;
    refuse(std::string(name) + " is " + std::to_string(value) + "; it must be from 1 to " +
           std::to_string(most));
  };
  size("input_size", input_size, kMaxSize);
  size("hidden_size", hidden_size, kMaxSize);
  size("num_threads", threads, 1024);
  if (!(a.clip >= 0.0) || std::isinf(a.clip)) {
    refuse("clip is " + std::to_string(a.clip) + "; it must be finite and not negative");
  }
  if (a.coupled && a.cell != "lstm") refuse("coupled is 1; only a cell 'lstm' allows it");
  for (const double share : {a.zoneout_h, a.zoneout_c}) {
    if (share >= 0.0 && share < 1.0) continue;
    refuse("zoneout is " + std::to_string(share) + "; it must be at least 0 and below 1");
  }
  if (a.zoneout_c > 0 && a.cell != "lstm") refuse("zoneout of c; only a cell 'lstm' has one");
  if (!(a.norm_epsilon > 0.0) || std::isinf(a.norm_epsilon)) {
    refuse("norm_epsilon is " + std::to_string(a.norm_epsilon) + "; it must be positive");
  }
  if (!(a.skip_cost >= 0.0) || std::isinf(a.skip_cost)) {
    refuse("skip_cost is " + std::to_string(a.skip_cost) + "; it must be finite and not negative");
  }
}

// The activations of a cell, or what ONNX takes when none are named.
std::vector<FunctionSpec> activations_of(const RecurrentAttributes& a, size_t per_direction,
                                         size_t directions) {
  const size_t count = per_direction * directions;
  std::vector<FunctionSpec> found;
  if (a.activations.empty()) {
    const Function gate = a.cell == "rnn" ? Function::kTanh : Function::kSigmoid;
    for (size_t i = 0; i < count; ++i) {
      found.push_back({i % per_direction == 0 ? gate : Function::kTanh, 0.0f, 0.0f});
    }
    return found;
  }
  const auto lengths = {a.activations.size(), a.activation_alpha.size(), a.activation_beta.size()};
  for (const size_t length : lengths) {
    if (length == count) continue;
    refuse("there are " + std::to_string(length) + " activations, alphas or betas; there must be " +
           std::to_string(count) + " of each");
  }
  for (size_t i = 0; i < count; ++i) {
    const auto function = function_named(a.activations[i]);
    if (!function || *function > Function::kSoftplus) {
      refuse("activation is '" + a.activations[i] + "'; it must be one of ONNX's for cells");
    }
    found.push_back({*function, static_cast<float>(a.activation_alpha[i]),
                     static_cast<float>(a.activation_beta[i])});
  }
  return found;
}

CellParams params_of(const RecurrentAttributes& a, const FunctionSpec* f) {
  CellParams p{};
  p.f = f[0];
  p.g = a.cell == "rnn" ? f[0] : f[1];
  p.h = a.cell == "lstm" ? f[2] : p.g;
  p.clip = static_cast<float>(a.clip);
  p.coupled = a.coupled;
  p.update_takes = a.update == "take";
  const bool gates = a.cell == "rnn" || p.f.kind == Function::kSigmoid;
  p.standard = gates && p.g.kind == Function::kTanh && p.h.kind == Function::kTanh &&
               p.clip == 0.0f && !p.coupled;
  return p;
}

}  // namespace

std::optional<LowType> training_type(const KernelTable& kernels, ComputeType type) {
  if (type != ComputeType::kFloat32 && type != ComputeType::kBfloat16) {
    throw Error(ErrorCode::kInvalidArgument, "compute_type is '" + std::string(name_of(type)) +
                                                 "'; training allows 'float32' and 'bfloat16'");
  }
  return low_type(kernels, type);
}

RecurrentTape::RecurrentTape(std::unique_ptr<Data> data) : data_(std::move(data)) {}
RecurrentTape::~RecurrentTape() = default;
int64_t RecurrentTape::steps() const { return data_->T; }
int64_t RecurrentTape::rows() const { return data_->N; }

RecurrentTraining::RecurrentTraining(const RecurrentAttributes& attributes, int64_t input_size,
                                     int64_t hidden_size, int num_threads, ComputeType type) {
  check(attributes, input_size, hidden_size, num_threads);
  auto impl = std::make_shared<Impl>();
  impl->kernels = &kernels();
  impl->layout = layout_of(attributes);
  impl->G = attributes.cell == "rnn" ? 1 : attributes.cell == "lstm" ? 4 : 3;
  impl->I = input_size;
  impl->H = hidden_size;
  impl->D = attributes.direction == "bidirectional" ? 2 : 1;
  impl->reverse_first = attributes.direction == "reverse";
  impl->threads = num_threads;
  impl->low = training_type(*impl->kernels, type);
  impl->zoneout_h = static_cast<float>(attributes.zoneout_h);
  impl->zoneout_c = static_cast<float>(attributes.zoneout_c);
  impl->epsilon = static_cast<float>(attributes.norm_epsilon);
  impl->skip_cost = static_cast<float>(attributes.skip_cost);
  const size_t per = attributes.cell == "rnn" ? 1 : attributes.cell == "lstm" ? 3 : 2;
  const auto functions = activations_of(attributes, per, static_cast<size_t>(impl->D));
  for (size_t d = 0; d < static_cast<size_t>(impl->D); ++d) {
    impl->params.push_back(params_of(attributes, functions.data() + d * per));
  }
  impl_ = std::move(impl);
}

RecurrentTraining::~RecurrentTraining() = default;
int64_t RecurrentTraining::directions() const { return impl_->D; }
int64_t RecurrentTraining::gates() const { return impl_->G; }
int64_t RecurrentTraining::input_size() const { return impl_->I; }
int64_t RecurrentTraining::hidden_size() const { return impl_->H; }
bool RecurrentTraining::is_lstm() const { return impl_->layout.lstm; }
int64_t RecurrentTraining::cell_size(const Weights& weights) const {
  const int64_t cell = is_lstm() ? impl_->H : 0;
  const int64_t gates = weights.gate_recurrence != nullptr ? 3 * impl_->H : 0;
  return cell + gates + (weights.skip != nullptr ? 1 : 0);
}

Part Split::part(const Team& team, int64_t rows, int64_t panels) const {
  if (by_rows || team.size() == 1) {
    return {team.begin(rows), team.end(rows), 0, panels, false};
  }
  return {0, rows, team.begin(panels), team.end(panels), true};
}

Split split_of(const RecurrentTraining::Impl& layer, const RecurrentTape::Data& tape) {
  const int64_t T = tape.T, N = tape.N, K = tape.K;
  // Measured: a team is awake after some microseconds, and meets in less than one.
  constexpr int64_t kWorthTeam = 2'000'000, kWorthMeeting = 200'000;
  constexpr int64_t kRowsEach = 8, kKeptBytes = 3 << 19;
  const int64_t step = N * layer.G * layer.H * K;
  if (layer.threads <= 1 || step * T < kWorthTeam) return {1, true};
  // What surrounds the cells of rare layers works on whole rows.
  if (!tape.plain()) {
    return {static_cast<int>(std::clamp<int64_t>(N / kRowsEach, 1, layer.threads)), true};
  }
  const int64_t bytes = layer.G * layer.H * K * int64_t{sizeof(float)};
  const bool by_rows = N >= kRowsEach * layer.threads && bytes <= kKeptBytes;
  if (by_rows) return {layer.threads, true};
  if (layer.panels() >= layer.threads && step >= kWorthMeeting) return {layer.threads, false};
  return {static_cast<int>(std::clamp<int64_t>(N / kRowsEach, 1, layer.threads)), true};
}

}  // namespace gruengine
