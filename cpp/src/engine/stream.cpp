// SPDX-License-Identifier: MIT
#include "gruengine/stream.h"

#include <algorithm>
#include <cstring>

#include "engine/engine.h"
#include "engine/state.h"
#include "engine/stream_parts.h"

namespace gruengine {
namespace {

// A chunk is run in tiles of these many frames, so that any length needs only a few plans.
constexpr int64_t kTiles[] = {128, 16, 1};

}  // namespace

struct Stream::Impl {
  std::shared_ptr<const Model> model;
  int64_t batch;
  Sizes sizes;                    // every symbol but time
  std::vector<size_t> ins, outs;  // graph ports that a step has
  std::unique_ptr<Workspace> workspace;
  Buffer state, saved;

  const Engine& engine() const { return model->engine(); }
  const Streaming& streaming() const { return engine().streaming(); }
  bool by_frames() const { return streaming().form == Streaming::Form::kFrames; }
  const Plan& plan() const { return workspace->plan(); }

  PlanRequest request(int64_t frames) const {
    Sizes all = sizes;
    if (by_frames()) all[streaming().time] = frames;
    PlanRequest request;
    request.inputs = engine().input_dims(all);
    request.time = streaming().time;
    request.stateful = true;
    return request;
  }

  // Refuses sizes with which the model turns out not to work frame by frame.
  std::shared_ptr<const Plan> plan_of(int64_t frames) const {
    auto plan = engine().plan(request(frames));
    if (by_frames() && !plan->failed_why.empty()) {
      throw Error(ErrorCode::kUnsupported,
                  "the model does not stream with batch_size " + std::to_string(batch) + ": " +
                      (plan->failed_node.empty() ? "" : plan->failed_node + " ") +
                      plan->failed_why);
    }
    return plan;
  }

  void run_tile(Workspace& at, const std::vector<const char*>& inputs,
                const std::vector<char*>& outputs) const {
    for (size_t i = 0; i < ins.size(); ++i) at.set_input(ins[i], inputs[i]);
    for (size_t i = 0; i < outs.size(); ++i) at.set_output(outs[i], outputs[i]);
    at.set_state(state.data());
    at.run(model->num_threads());
  }
};

namespace {

// Refuses a value for a size that the model does not leave open, or an impossible one.
void check_size(const Engine& engine, const std::string& symbol, int64_t size) {
  const Streaming& streaming = engine.streaming();
  std::string open;
  for (const Port& port : engine.file().graph.inputs) {
    for (const Dim& dim : port.shape) {
      if (dim.symbol.empty() || dim.symbol == streaming.time || dim.symbol == streaming.batch) {
        continue;
      }
      if (dim.symbol == symbol && size > 0) return;
      if (open.find("'" + dim.symbol + "'") == std::string::npos) open += " '" + dim.symbol + "'";
    }
  }
  throw Error(ErrorCode::kInvalidArgument,
              "sizes gives '" + symbol + "' = " + std::to_string(size) + "; " +
                  (open.empty() ? "the model leaves no size open"
                                : "positive values are allowed for" + open));
}

}  // namespace

Stream::Stream(std::shared_ptr<const Model> model, int64_t batch_size,
               const std::map<std::string, int64_t>& sizes)
    : impl_(std::make_unique<Impl>()) {
  const Engine& engine = model->engine();
  const Streaming& streaming = engine.streaming();
  if (streaming.form == Streaming::Form::kNone) {
    throw Error(ErrorCode::kUnsupported, "the model does not stream: " +
                                             (streaming.node.empty() ? "" : streaming.node + " ") +
                                             streaming.reason);
  }
  if (batch_size < 1) {
    throw Error(ErrorCode::kInvalidArgument,
                "batch_size is " + std::to_string(batch_size) + "; it must be 1 or more");
  }
  if (streaming.batch.empty() && batch_size != 1) {
    throw Error(ErrorCode::kInvalidArgument, "batch_size is " + std::to_string(batch_size) +
                                                 "; this model has a fixed batch, so it must be 1");
  }
  impl_->model = std::move(model);
  impl_->batch = batch_size;
  for (const auto& [symbol, size] : sizes) check_size(engine, symbol, size);
  impl_->sizes = sizes;
  if (!streaming.batch.empty()) impl_->sizes[streaming.batch] = batch_size;
  const auto& ports = engine.file().graph.inputs;
  bool open = false;
  for (size_t i = 0; i < ports.size(); ++i) {
    const bool is_state = engine.is_state_input(ports[i].name);
    if (!is_state) impl_->ins.push_back(i);
    for (const Dim& dim : ports[i].shape) {
      if (dim.symbol.empty() || dim.symbol == streaming.time) continue;
      if (is_state) impl_->sizes.emplace(dim.symbol, batch_size);
      open = open || impl_->sizes.count(dim.symbol) == 0;
    }
  }
  const auto& results = engine.file().graph.outputs;
  for (size_t i = 0; i < results.size(); ++i) {
    if (engine.is_returned(results[i].name)) impl_->outs.push_back(i);
  }
  if (!open) prepare({});
}

Stream::~Stream() = default;

const Model& Stream::model() const { return *impl_->model; }
int64_t Stream::batch_size() const { return impl_->batch; }

void Stream::prepare(const std::vector<Dims>& given) {
  if (ready_) return;
  const auto& graph = impl_->engine().file().graph;
  for (size_t i = 0; i < given.size() && i < impl_->ins.size(); ++i) {
    const Port& port = graph.inputs[impl_->ins[i]];
    if (given[i].size() != port.shape.size()) {
      throw Error(ErrorCode::kInvalidArgument,
                  "input '" + port.name + "' of the first step has shape " + to_string(given[i]) +
                      "; it must have " + std::to_string(port.shape.size()) + " axes");
    }
    for (size_t axis = 0; axis < given[i].size(); ++axis) {
      const std::string& symbol = port.shape[axis].symbol;
      if (!symbol.empty()) impl_->sizes.emplace(symbol, given[i][axis]);
    }
  }
  auto plan = impl_->plan_of(1);
  const auto describe = [&](const std::vector<size_t>& which, const std::vector<Value>& values,
                            const std::vector<Port>& ports) {
    std::vector<StepPort> result;
    for (const size_t i : which) {
      const Value& value = values[i];
      const int axis = value.time.kind == Time::kFrames ? value.time.axis : -1;
      result.push_back({ports[i].name, value.dtype, value.dims, axis, count(value.dims)});
    }
    return result;
  };
  inputs_ = describe(impl_->ins, plan->inputs, graph.inputs);
  outputs_ = describe(impl_->outs, plan->outputs, graph.outputs);
  impl_->state = Buffer(static_cast<size_t>(plan->state_bytes));
  impl_->saved = Buffer(static_cast<size_t>(plan->state_bytes));
  impl_->workspace = std::make_unique<Workspace>(std::move(plan));
  impl_->workspace->set_state(impl_->state.data());
  reset_state(impl_->plan(), impl_->state.data());
  ready_ = true;
}

namespace {

[[noreturn]] void refuse_open() {
  throw Error(ErrorCode::kInvalidArgument,
              "the stream has open sizes until its first step; give them as sizes={...}");
}

[[noreturn]] void refuse_span(const char* what, size_t got, const StepPort& port) {
  throw Error(ErrorCode::kInvalidArgument, std::string(what) + " '" + port.name + "' has " +
                                               std::to_string(got) + " elements; a step has " +
                                               std::to_string(port.count));
}

}  // namespace

void Stream::step(std::span<const float> x, std::span<float> y) {
  if (!ready_) refuse_open();
  if (inputs_.size() != 1 || outputs_.size() != 1 || inputs_[0].dtype != DType::kFloat32 ||
      outputs_[0].dtype != DType::kFloat32) {
    throw Error(ErrorCode::kInvalidArgument,
                "step() of spans needs one float32 input and output; give arrays of pointers");
  }
  if (x.size() != static_cast<size_t>(inputs_[0].count)) {
    refuse_span("input", x.size(), inputs_[0]);
  }
  if (y.size() != static_cast<size_t>(outputs_[0].count)) {
    refuse_span("output", y.size(), outputs_[0]);
  }
  const void* in = x.data();
  void* out = y.data();
  step(&in, &out);
}

void Stream::step(const void* const* inputs, void* const* outputs) {
  const Guard guard(busy_);
  if (!ready_) refuse_open();
  Workspace& workspace = *impl_->workspace;
  for (size_t i = 0; i < impl_->ins.size(); ++i) workspace.set_input(impl_->ins[i], inputs[i]);
  for (size_t i = 0; i < impl_->outs.size(); ++i) workspace.set_output(impl_->outs[i], outputs[i]);
  if (!workspace.plan().may_fail) return workspace.run(impl_->model->num_threads());
  Undo undo(impl_->state.data(), impl_->saved.data(), impl_->state.size());
  workspace.run(impl_->model->num_threads());
  undo.done();
}

namespace {

// The memory of a caller is cut by the ports of one step: a plan of more frames must agree.
void check_ports(const std::vector<StepPort>& ports, const std::vector<size_t>& which,
                 const std::vector<Value>& values, int64_t frames) {
  for (size_t i = 0; i < ports.size(); ++i) {
    const Dims& dims = values[which[i]].dims;
    bool equal = dims.size() == ports[i].dims.size();
    for (size_t axis = 0; equal && axis < dims.size(); ++axis) {
      const bool time = static_cast<int>(axis) == ports[i].time_axis;
      equal = dims[axis] == (time ? frames : ports[i].dims[axis]);
    }
    if (!equal) {
      throw Error(ErrorCode::kInternal, "'" + ports[i].name + "' has shape " + to_string(dims) +
                                            " for " + std::to_string(frames) + " frames");
    }
  }
}

}  // namespace

void Stream::run(int64_t frames, const void* const* inputs, void* const* outputs, Stop stop) {
  const Guard guard(busy_);
  if (!ready_) refuse_open();
  Undo undo(impl_->state.data(), impl_->saved.data(), impl_->state.size());
  std::vector<const char*> in(inputs_.size());
  std::vector<char*> out(outputs_.size());
  for (int64_t first = 0; first < frames;) {
    if (stop.wanted != nullptr && stop.wanted(stop.user)) {
      throw Error(ErrorCode::kInterrupted, "the run was stopped after " + std::to_string(first) +
                                               " of " + std::to_string(frames) +
                                               " frames; the stream is as it was before");
    }
    const int64_t left = frames - first;
    const int64_t tile = !impl_->by_frames() ? 1
                                             : *std::find_if(std::begin(kTiles), std::end(kTiles),
                                                             [&](int64_t t) { return t <= left; });
    const Engine::Lease workspace(impl_->engine(), impl_->plan_of(tile));
    check_ports(inputs_, impl_->ins, workspace->plan().inputs, tile);
    check_ports(outputs_, impl_->outs, workspace->plan().outputs, tile);
    std::vector<std::vector<char>> staged_in(in.size()), staged_out(out.size());
    for (size_t i = 0; i < in.size(); ++i) {
      const StepPort& port = inputs_[i];
      in[i] = static_cast<const char*>(inputs[i]);
      if (!impl_->by_frames()) in[i] += first * port.count * size_of(port.dtype);
      if (port.time_axis < 0) continue;
      const Window window(port);
      if (window.outer == 1) {
        in[i] += first * window.inner;
      } else {
        staged_in[i].resize(static_cast<size_t>(window.outer * tile * window.inner));
        window.read(staged_in[i].data(), in[i], frames, first, tile);
        in[i] = staged_in[i].data();
      }
    }
    for (size_t i = 0; i < out.size(); ++i) {
      const StepPort& port = outputs_[i];
      out[i] = static_cast<char*>(outputs[i]);
      if (!impl_->by_frames()) out[i] += first * port.count * size_of(port.dtype);
      if (port.time_axis < 0) continue;
      const Window window(port);
      if (window.outer == 1) {
        out[i] += first * window.inner;
      } else {
        staged_out[i].resize(static_cast<size_t>(window.outer * tile * window.inner));
        out[i] = staged_out[i].data();
      }
    }
    impl_->run_tile(*workspace, in, out);
    for (size_t i = 0; i < out.size(); ++i) {
      if (staged_out[i].empty()) continue;
      Window(outputs_[i]).write(out[i], static_cast<char*>(outputs[i]), frames, first, tile);
    }
    first += tile;
  }
  undo.done();
}

void Stream::reset() {
  const Guard guard(busy_);
  if (ready_) reset_state(impl_->plan(), impl_->state.data());
}

std::unique_ptr<Stream> Stream::clone() const {
  const Guard guard(busy_);
  auto copy = std::make_unique<Stream>(impl_->model, impl_->batch, Sizes());
  copy->impl_->sizes = impl_->sizes;
  if (ready_) {
    copy->prepare({});
    std::memcpy(copy->impl_->state.data(), impl_->state.data(), impl_->state.size());
  }
  return copy;
}

std::vector<uint8_t> Stream::get_state() const {
  const Guard guard(busy_);
  if (!ready_) refuse_open();
  return pack_state(impl_->model->hash(), impl_->plan(), impl_->state.data());
}

size_t Stream::get_state(uint8_t* bytes, size_t size) const {
  const std::vector<uint8_t> state = get_state();
  if (size < state.size()) {
    throw Error(ErrorCode::kInvalidArgument, "the state has " + std::to_string(state.size()) +
                                                 " bytes; there is room for " +
                                                 std::to_string(size));
  }
  std::memcpy(bytes, state.data(), state.size());
  return state.size();
}

size_t Stream::packed_state_size() const { return get_state().size(); }

void Stream::set_state(const uint8_t* bytes, size_t size) {
  const Guard guard(busy_);
  if (!ready_) refuse_open();
  unpack_state(impl_->model->hash(), impl_->plan(), bytes, size, impl_->state.data());
}

std::vector<StateEntry> Stream::state_layout() const {
  if (!ready_) refuse_open();
  return entries_of(impl_->plan());
}

std::vector<uint8_t> Stream::copy_state() const {
  const Guard guard(busy_);
  if (!ready_) refuse_open();
  return {impl_->state.data(), impl_->state.data() + impl_->state.size()};
}

uint8_t* Stream::state_data() { return reinterpret_cast<uint8_t*>(impl_->state.data()); }
size_t Stream::state_size() const { return impl_->state.size(); }

}  // namespace gruengine
