// SPDX-License-Identifier: MIT
// Planning of the recurrent node: attributes checked, weights packed, memory declared.
#include <algorithm>
#include <memory>

#include "engine/recurrent.h"
#include "isa/functions.h"

namespace gruengine {
namespace {

using Cell = RecurrentPlan::Cell;

// Input products of a chunk should stay in L2 beside the recurrent weights. Where the weights do
// not stay there themselves, longer chunks read the input weights less often; the faster the
// products, the more that counts.
constexpr int64_t kChunkBytes = 256 << 10;
constexpr int64_t kLongChunkBytes = 1 << 20;
constexpr int64_t kLongLowChunkBytes = 2 << 20;

// The order of gates in W, R and B, and so in the panels: LSTM i, o, f, c; GRU z, r, h.
struct PhaseShape {
  StepKind kind;
  int first_gate, gates;
};

std::vector<PhaseShape> phases_of(Cell cell, bool reset_after) {
  if (cell == Cell::kRnn) return {{StepKind::kRnn, 0, 1}};
  if (cell == Cell::kLstm) return {{StepKind::kLstm, 0, 4}};
  if (reset_after) return {{StepKind::kGruAfter, 0, 3}};
  return {{StepKind::kGruBeforeGates, 0, 2}, {StepKind::kGruBeforeUpdate, 2, 1}};
}

std::string key_of(const char* what, const void* a, const void* b,
                   std::initializer_list<int64_t> parts) {
  std::string key = what + std::to_string(reinterpret_cast<intptr_t>(a)) + ":" +
                    std::to_string(reinterpret_cast<intptr_t>(b));
  for (const int64_t part : parts) key += ":" + std::to_string(part);
  return key;
}

class RecurrentBuilder {
 public:
  explicit RecurrentBuilder(NodeBuilder& builder) : b_(builder) {}

  void plan() {
    read_attributes();
    read_shapes();
    for (int64_t d = 0; d < p_->D; ++d) p_->directions.push_back(direction(d));
    place_states();
    place_outputs();
    place_scratch();
    p_->share_steps();
    b_.emit_recurrent(p_);
  }

 private:
  void read_attributes() {
    p_->kernels = &b_.kernels();
    p_->low = b_.low();
    const std::string cell = b_.attr("cell", "");
    if (cell != "rnn" && cell != "lstm" && cell != "gru") {
      b_.refuse(ErrorCode::kUnsupported, "cell '" + cell + "'; it must be rnn, lstm or gru");
    }
    p_->cell = cell == "rnn" ? Cell::kRnn : cell == "lstm" ? Cell::kLstm : Cell::kGru;
    p_->H = b_.attr("hidden_size", int64_t{0});
    const std::string way = b_.attr("direction", "forward");
    if (way != "forward" && way != "reverse" && way != "bidirectional") {
      b_.refuse(ErrorCode::kInvalidFile, "direction '" + way + "'");
    }
    p_->D = way == "bidirectional" ? 2 : 1;
    reverse_first_ = way == "reverse";
    reset_after_ = b_.attr("reset", "after") != std::string("before");
    gates_ = p_->cell == Cell::kRnn ? 1 : p_->cell == Cell::kLstm ? 4 : 3;
  }

  // A weight input: constant float32 with exactly these dims.
  const float* weight(size_t i, const Dims& dims) {
    const Value& value = b_.expect(i, DType::kFloat32);
    if (value.dims != dims || value.constant == nullptr) {
      b_.refuse(ErrorCode::kInvalidFile, "input " + std::to_string(i) + " has shape " +
                                             to_string(value.dims) +
                                             "; it must be a constant of shape " + to_string(dims));
    }
    return static_cast<const float*>(value.constant);
  }

  void read_shapes() {
    const Value& x = b_.expect(0, DType::kFloat32);
    b_.expect_rank(0, 3);
    p_->T = x.dims[0];
    p_->N = x.dims[1];
    p_->I = x.dims[2];
    p_->projected = b_.has(8);
    if (p_->H < 1) b_.refuse(ErrorCode::kInvalidFile, "hidden_size must be at least 1");
    p_->K = p_->H;
    if (p_->projected) {
      b_.expect_rank(8, 3);
      p_->K = b_.in(8).dims[1];
      projection_ = weight(8, {p_->D, p_->K, p_->H});
    }
    w_ = weight(1, {p_->D, gates_ * p_->H, p_->I});
    r_ = weight(2, {p_->D, gates_ * p_->H, p_->K});
    if (b_.has(3)) bias_ = weight(3, {p_->D, 2 * gates_ * p_->H});
    if (b_.has(7)) peephole_ = weight(7, {p_->D, 3 * p_->H});
    p_->panels = (p_->H + p_->kernels->width - 1) / p_->kernels->width;
    read_variant();
    if (std::max({p_->I, p_->H, p_->K, p_->fed}) > kMostLowRows) p_->low = nullptr;
    p_->x = x.slot;
  }

  // What surrounds the cell: engine/lstm_row.h, engine/skip.h.
  void read_variant() {
    const int64_t D = p_->D, H = p_->H, K = p_->K;
    p_->by_rows = b_.has(9) || b_.has(10);
    p_->skips = b_.has(11);
    p_->fed = b_.has(9) ? 3 * H : 0;
    if (b_.has(9)) fed_ = weight(9, {D, 3 * H, 3 * H});
    if (b_.has(10)) norm_ = weight(10, {D, 10 * H});
    if (p_->skips) skip_ = weight(11, {D, K + 1});
    p_->C = (p_->cell == Cell::kLstm ? H : 0) + p_->fed + (p_->skips ? 1 : 0);
    p_->epsilon = static_cast<float>(b_.attr("norm_epsilon", 1e-5));
    auto zoneout = b_.attr_floats("zoneout");
    zoneout.resize(2);  // zeros where there is none
    p_->zoneout_h = static_cast<float>(zoneout[0]), p_->zoneout_c = static_cast<float>(zoneout[1]);
    p_->blends = p_->skips || p_->zoneout_h > 0 || p_->zoneout_c > 0;
  }

  FunctionSpec activation(size_t i) {
    const auto names = b_.attr_strings("activations");
    const auto alpha = b_.attr_floats("activation_alpha");
    const auto beta = b_.attr_floats("activation_beta");
    if (i >= names.size() || i >= alpha.size() || i >= beta.size()) {
      b_.refuse(ErrorCode::kInvalidFile, "has too few activations");
    }
    const auto function = function_named(names[i]);
    if (!function || *function > Function::kSoftplus) {
      b_.refuse(ErrorCode::kUnsupported, "activation '" + names[i] + "'");
    }
    return {*function, static_cast<float>(alpha[i]), static_cast<float>(beta[i])};
  }

  CellParams params(int64_t d) {
    CellParams params{};
    const auto first = static_cast<size_t>(d);
    if (p_->cell == Cell::kRnn) {
      params.f = params.g = params.h = activation(first);
    } else if (p_->cell == Cell::kLstm) {
      params.f = activation(3 * first);
      params.g = activation(3 * first + 1);
      params.h = activation(3 * first + 2);
    } else {
      params.f = activation(2 * first);
      params.g = params.h = activation(2 * first + 1);
    }
    params.clip = static_cast<float>(b_.attr("clip", 0.0));
    params.coupled = b_.attr("coupled", int64_t{0}) != 0;
    params.update_takes = b_.attr("update", "keep") == std::string("take");
    const bool gates_standard = p_->cell == Cell::kRnn || params.f.kind == Function::kSigmoid;
    params.standard = gates_standard && params.g.kind == Function::kTanh &&
                      params.h.kind == Function::kTanh && params.clip == 0 && !params.coupled &&
                      !params.update_takes;
    return params;
  }

  // [panels][gates][V] of a function of (gate, unit).
  template <class F>
  const float* by_panel(const std::string& key, int gates, const F& value) {
    const int64_t width = p_->kernels->width;
    const int64_t H = p_->H;
    return b_.store(b_.in(1)).floats(key, p_->panels * gates * width, [=](float* to) {
      for (int64_t u = 0; u < H; ++u) {
        for (int g = 0; g < gates; ++g)
          to[((u / width) * gates + g) * width + u % width] = value(g, u);
      }
    });
  }

  CellPhase phase(int64_t d, const PhaseShape& shape) {
    const int64_t width = p_->kernels->width;
    const int64_t H = p_->H, I = p_->I, K = p_->K, all = gates_;
    const float* w = w_ + d * all * H * I;
    const float* r = r_ + d * all * H * K;
    const int64_t G = shape.gates, first = shape.first_gate;
    CellPhase phase{shape.kind, shape.gates, {}, {}, nullptr, nullptr, nullptr, {}};
    const auto at = [=](int64_t row, int64_t column) -> const float* {
      const int64_t unit = column / (G * width) * width + column % width;
      if (unit >= H) return nullptr;
      const int64_t line = (first + column / width % G) * H + unit;
      return row < I ? w + line * I + row : r + line * K + (row - I);
    };
    WeightStore& store = b_.store(b_.in(1));
    const std::string key = key_of("cell", w, r, {first, G});
    const int64_t columns = p_->panels * G * width;
    const auto lanes = static_cast<int>(width);
    if (p_->low != nullptr) {
      phase.low = store.low_matrix(key, *p_->low, {I, K}, columns, shape.gates, lanes, at);
    } else {
      phase.w = store.matrix(key, I + K, columns, shape.gates, lanes, at);
    }
    const float* bias = bias_ == nullptr ? nullptr : bias_ + d * 2 * all * H;
    const bool after = shape.kind == StepKind::kGruAfter;
    phase.bias = by_panel(key_of("bias", w, bias, {first, G}), shape.gates, [=](int g, int64_t u) {
      if (bias == nullptr) return 0.0f;
      const int64_t line = (first + g) * H + u;
      return after && g == 2 ? bias[line] : bias[line] + bias[all * H + line];
    });
    if (after) {
      phase.bias_h = by_panel(key_of("bias_h", w, bias, {}), 1, [=](int, int64_t u) {
        return bias == nullptr ? 0.0f : bias[(all + 2) * H + u];
      });
    }
    if (peephole_ != nullptr) {
      const float* peephole = peephole_ + d * 3 * H;
      phase.peephole = by_panel(key_of("peephole", w, peephole, {}), 3,
                                [=](int g, int64_t u) { return peephole[g * H + u]; });
    }
    return phase;
  }

  // Floats of a constant input where the plan may read them, with whole vectors behind them.
  const float* kept(size_t input, const float* from, int64_t n) {
    const auto fill = [=](float* to) { std::copy_n(from, n, to); };
    return b_.store(b_.in(input))
        .floats(key_of("kept", from, nullptr, {n}), n + p_->kernels->width, fill);
  }

  // Weights [D, n, k] of direction d.
  ProductWeights product_weights(size_t i, const float* from, int64_t k, int64_t n, int64_t d) {
    if (p_->low == nullptr) return {b_.packed(i, k, n, 1, k, d * n * k), {}};
    const float* weights = from + d * n * k;
    const auto at = [=](int64_t row, int64_t column) { return weights + column * k + row; };
    const std::string key = key_of("product", weights, nullptr, {k, n});
    WeightStore& store = b_.store(b_.in(i));
    return {{}, store.low_matrix(key, *p_->low, {k}, n, 4, p_->kernels->width, at)};
  }

  RowWeights row_weights(int64_t d) {
    const int64_t H = p_->H, I = p_->I, K = p_->K, all = 4 * H;
    RowWeights found{product_weights(1, w_, I, all, d), product_weights(2, r_, K, all, d), {}};
    if (fed_ != nullptr) found.f = product_weights(9, fed_, p_->fed, p_->fed, d);
    if (norm_ != nullptr) found.norm = kept(10, norm_ + d * 10 * H, 10 * H);
    if (peephole_ != nullptr) found.peephole = kept(7, peephole_ + d * 3 * H, 3 * H);
    const float* bias = bias_ == nullptr ? nullptr : bias_ + d * 2 * all;
    const auto sum = [=](float* to) {
      for (int64_t j = 0; bias != nullptr && j < all; ++j) to[j] = bias[j] + bias[all + j];
    };
    const std::string key = key_of("row bias", w_ + d * all * I, bias, {});
    found.bias = b_.store(b_.in(1)).floats(key, all + p_->kernels->width, sum);
    return found;
  }

  CellDirection direction(int64_t d) {
    CellDirection direction;
    direction.params = params(d);
    direction.reverse = d == 1 || reverse_first_;
    if (p_->by_rows) direction.by_rows = row_weights(d);
    for (const PhaseShape& shape : phases_of(p_->cell, reset_after_)) {
      if (!p_->by_rows) direction.phases.push_back(phase(d, shape));
    }
    if (p_->skips) direction.skip = kept(11, skip_ + d * (p_->K + 1), p_->K + 1);
    if (p_->projected) direction.projection = product_weights(8, projection_, p_->H, p_->K, d);
    return direction;
  }

  // A state [D,N,size]: carried in the state block, given as a value, or zeros.
  Slot initial_state(size_t input, const char* suffix, int64_t size) {
    const Dims dims{p_->D, p_->N, size};
    const bool given = b_.has(input);
    if (given) {
      const Value& value = b_.expect(input, DType::kFloat32);
      if (value.dims != dims) {
        b_.refuse(ErrorCode::kInvalidArgument, "initial state has shape " + to_string(value.dims) +
                                                   "; it must be " + to_string(dims));
      }
      if (!p_->carried) return value.slot;
      return b_.carry(suffix, dims, value.constant);
    }
    if (p_->carried) return b_.carry(suffix, dims, nullptr);
    return b_.zeros(p_->D * p_->N * size);
  }

  void place_states() {
    const Time time = b_.in(0).time;
    const bool over_time = time.kind == Time::kFrames && time.axis == 0;
    // A state that the graph itself computes or is given stays the graph's affair.
    bool open = true;
    for (const size_t i : {size_t{5}, size_t{6}}) {
      if (!b_.has(i)) continue;
      const Value& initial = b_.in(i);
      open = open && initial.constant != nullptr;
      if (over_time && initial.constant == nullptr && !initial.carried) {
        b_.mixes_time("starts from a state that other nodes compute");
      }
    }
    p_->carried = b_.stateful() && over_time && open;
    b_.count_recurrent(over_time, p_->carried);
    p_->h0 = initial_state(5, ".h", p_->K);
    p_->c0 = p_->c = p_->h0;
    if (p_->C > 0) {
      p_->c0 = initial_state(6, ".c", p_->C);
      p_->c = p_->carried ? p_->c0 : b_.scratch(p_->D * p_->N * p_->C * int64_t{sizeof(float)});
    }
    p_->has_lengths = b_.has(4) || (over_time && b_.lengths_given());
    if (b_.has(4)) {
      const Value& lengths = b_.expect_rank(4, 1);
      if ((lengths.dtype != DType::kInt32 && lengths.dtype != DType::kInt64) ||
          lengths.dims[0] != p_->N) {
        b_.refuse(ErrorCode::kInvalidArgument,
                  "lengths must be " + std::to_string(p_->N) + " integers");
      }
      p_->lengths = lengths.slot;
      p_->lengths_wide = lengths.dtype == DType::kInt64;
      if (over_time) b_.mixes_time("is given the lengths of its rows");
    } else if (p_->has_lengths) {
      p_->lengths = b_.lengths();
      p_->lengths_wide = true;
    }
    if (over_time && (p_->D == 2 || reverse_first_)) b_.mixes_time("reads frames backwards");
    if (time.kind == Time::kFrames && time.axis == 2) {
      b_.mixes_time("takes the time axis as its features");
    }
  }

  void place_outputs() {
    const int64_t T = p_->T, N = p_->N, K = p_->K, D = p_->D;
    const Time time = b_.in(0).time;
    Time series = time, last = time;
    if (time.kind == Time::kFrames) {
      series = frames(time.axis == 0 ? 0 : 2);
      last = time.axis == 0 ? Time{Time::kLatest, -1} : frames(1);
    }
    for (const size_t i : {size_t{5}, size_t{6}}) {
      if (b_.has(i) && b_.in(i).time.kind == Time::kLatest && time.kind == Time::kConstant) {
        series = last = {Time::kLatest, -1};
      }
    }
    p_->y = b_.output(0, DType::kFloat32, {T, D, N, K}, series);
    p_->wants_y_h = b_.wants(1);
    p_->wants_y_c = b_.wants(2) && p_->C > 0;
    if (p_->wants_y_h) p_->y_h = b_.output(1, DType::kFloat32, {D, N, K}, last);
    if (p_->wants_y_c) p_->y_c = b_.output(2, DType::kFloat32, {D, N, p_->C}, last);
  }

  void place_scratch() {
    constexpr int64_t kFloat = sizeof(float);
    const int64_t T = p_->T, N = p_->N, units = p_->panels * p_->kernels->width * kFloat;
    const int64_t lanes = p_->lanes = b_.threads() > 1 && !p_->has_lengths ? p_->D : 1;
    if (T > 1 && !p_->skips) {
      const int64_t row = gates_ * units;
      const int64_t longer = p_->low != nullptr ? kLongLowChunkBytes : kLongChunkBytes;
      const int64_t chunk = row * p_->I > kLongChunkBytes ? longer : kChunkBytes;
      p_->chunk_steps = std::clamp<int64_t>(chunk / std::max<int64_t>(1, row * N), 1, T);
      p_->z = b_.scratch(lanes * p_->chunk_steps * N * row);
    }
    if (p_->projected) p_->hidden = b_.scratch(lanes * N * p_->H * kFloat);
    if (p_->cell == Cell::kGru && !reset_after_) {
      p_->gate = b_.scratch(lanes * N * p_->H * kFloat);
      p_->reset = b_.scratch(lanes * N * p_->H * kFloat);
    }
    if (p_->low != nullptr) {
      p_->rows_x = {p_->low, std::max<int64_t>(p_->chunk_steps, 1) * N, p_->I};
      p_->rows_h = {p_->low, N, p_->K};
      p_->rows_hidden = {p_->low, N, p_->projected ? p_->H : 0};
      p_->rows_fed = {p_->low, N, p_->fed};
      p_->member_bytes = p_->rows_bytes();
      if (p_->low->section > 0) p_->member_bytes += N * (gates_ + 1) * units;
      p_->prepared = b_.scratch((b_.threads() + lanes - 1) * p_->member_bytes);
    }
    if (p_->has_lengths) {
      p_->order = b_.scratch(2 * N * int64_t{sizeof(int64_t)});
      p_->sorted_x = b_.scratch(T * N * p_->I * kFloat);
      p_->sorted_y = b_.scratch(T * N * p_->K * kFloat);
      p_->sorted_h = b_.scratch(N * p_->K * kFloat);
      p_->sorted_c = b_.scratch(N * p_->C * kFloat);
    }
    if (p_->blends) {
      p_->new_h = b_.scratch(lanes * N * p_->K * kFloat);
      p_->new_c = b_.scratch(lanes * N * p_->C * kFloat);
    }
    if (p_->by_rows) {
      p_->sums = b_.scratch(lanes * p_->row_floats() * kFloat);
      p_->hats = b_.scratch(lanes * p_->row_floats() * kFloat);
      p_->squashed = b_.scratch(lanes * p_->H * kFloat);
    }
  }

  NodeBuilder& b_;
  std::shared_ptr<RecurrentPlan> p_ = std::make_shared<RecurrentPlan>();
  const float *w_ = nullptr, *r_ = nullptr, *bias_ = nullptr, *peephole_ = nullptr,
              *projection_ = nullptr, *fed_ = nullptr, *norm_ = nullptr, *skip_ = nullptr;
  int64_t gates_ = 0;
  bool reverse_first_ = false, reset_after_ = true;
};

}  // namespace

void plan_recurrent(NodeBuilder& builder) { RecurrentBuilder(builder).plan(); }

}  // namespace gruengine
