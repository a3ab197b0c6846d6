// SPDX-License-Identifier: MIT
#include "engine/engine.h"

#include <algorithm>

#include "isa/dispatch.h"

namespace gruengine {
namespace {

constexpr size_t kPlansKept = 32;
constexpr size_t kIdleKept = 16;

int64_t weight_bytes(const ModelFile& file) {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : file.tensors) {
    if (tensor.dtype == DType::kFloat32) bytes += count(tensor.dims) * int64_t{sizeof(float)};
  }
  return bytes;
}

}  // namespace

Engine::Engine(std::shared_ptr<const ModelFile> file, const ModelOptions& options)
    : file_(std::move(file)),
      options_(options),
      kernels_(gruengine::kernels()),
      compute_type_(options.compute_type.value_or(compute_type_named(file_->compute_type))),
      low_(low_type(kernels_, compute_type_)),
      low_convolutions_(low_type_of_convolutions(kernels_, compute_type_)),
      weights_(weight_bytes(*file_) * (low_ ? low_->weight_bytes * (low_->terms == 1 ? 1 : 2) : 4) /
               4) {
  if (options.num_threads < 1) {
    throw Error(ErrorCode::kInvalidArgument,
                "num_threads is " + std::to_string(options.num_threads) + "; it must be 1 or more");
  }
  for (const auto& [name, tensor] : file_->tensors) {
    Value value;
    value.dtype = tensor.dtype;
    value.dims = tensor.dims;
    value.constant = tensor.data;
    value.of_model = true;
    constants_[name] = value;
  }
  Planner::fold(file_->graph, file_->state, kernels_, weights_, folded_, constants_);
  streaming_ = analyse_streaming(*this);
}

bool Engine::is_state_input(const std::string& name) const {
  return std::any_of(file_->state.begin(), file_->state.end(),
                     [&](const StatePair& pair) { return pair.input == name; });
}

bool Engine::is_returned(const std::string& output) const {
  return gruengine::is_returned(file_->graph, file_->state, output);
}

PlanSource Engine::source() const {
  return {file_->graph,
          file_->state,
          constants_,
          weights_,
          kernels_,
          low_ ? &*low_ : nullptr,
          low_convolutions_ ? &*low_convolutions_ : nullptr,
          options_.num_threads};
}

std::shared_ptr<const Plan> Engine::plan_once(const PlanRequest& request) const {
  const PlanSource source = this->source();
  return Planner(source, request).build();
}

// The plan that knows where time lies, for runs that carry states; nullptr where there is none.
std::shared_ptr<const Plan> Engine::guide_for(const PlanRequest& request) const {
  if (!request.stateful || request.time.empty() || request.marked > 0) return nullptr;
  PlanRequest marked = request;
  marked.marked = choose_mark(*file_, request.inputs);
  const auto& ports = file_->graph.inputs;
  for (size_t i = 0; i < ports.size(); ++i) {
    for (size_t axis = 0; axis < ports[i].shape.size(); ++axis) {
      if (ports[i].shape[axis].symbol == request.time) marked.inputs[i][axis] = marked.marked;
    }
  }
  try {
    return plan_once(marked);
  } catch (const Error&) {
    return nullptr;  // a model that takes some numbers of frames only
  }
}

std::shared_ptr<const Plan> Engine::plan(const PlanRequest& request) const {
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(plans_.begin(), plans_.end(),
                                  [&](const Entry& entry) { return entry.request == request; });
  if (found != plans_.end()) {
    plans_.splice(plans_.begin(), plans_, found);
    return plans_.front().plan;
  }
  const PlanSource source = this->source();
  plans_.push_front({request, Planner(source, request, guide_for(request)).build()});
  if (plans_.size() > kPlansKept) plans_.pop_back();
  return plans_.front().plan;
}

Engine::Lease::Lease(const Engine& engine, std::shared_ptr<const Plan> plan) : engine_(engine) {
  {
    const std::lock_guard lock(engine.mutex_);
    auto& idle = engine.idle_;
    const auto found = std::find_if(idle.begin(), idle.end(), [&](const auto& workspace) {
      return &workspace->plan() == plan.get();
    });
    if (found != idle.end()) {
      workspace_ = std::move(*found);
      idle.erase(found);
    }
  }
  if (workspace_ == nullptr) workspace_ = std::make_unique<Workspace>(std::move(plan));
}

Engine::Lease::~Lease() {
  const std::lock_guard lock(engine_.mutex_);
  auto& idle = engine_.idle_;
  if (idle.size() >= kIdleKept) idle.erase(idle.begin());
  idle.push_back(std::move(workspace_));
}

std::vector<Dims> Engine::input_dims(const Sizes& sizes) const {
  std::vector<Dims> all;
  for (const Port& port : file_->graph.inputs) {
    Dims dims;
    for (const Dim& dim : port.shape) {
      if (dim.symbol.empty()) {
        dims.push_back(dim.value);
        continue;
      }
      const auto found = sizes.find(dim.symbol);
      if (found == sizes.end()) {
        throw Error(ErrorCode::kInvalidArgument, "the size '" + dim.symbol + "' of input '" +
                                                     port.name + "' is open; give it a value");
      }
      dims.push_back(found->second);
    }
    all.push_back(std::move(dims));
  }
  return all;
}

void Engine::check_inputs(const std::vector<ConstView>& inputs, bool skip_state) const {
  const auto& ports = file_->graph.inputs;
  if (inputs.size() != ports.size()) {
    throw Error(ErrorCode::kInvalidArgument, "got " + std::to_string(inputs.size()) +
                                                 " inputs; the model has " +
                                                 std::to_string(ports.size()));
  }
  Sizes seen;
  for (size_t i = 0; i < ports.size(); ++i) {
    const Port& port = ports[i];
    if (skip_state && is_state_input(port.name)) continue;
    if (inputs[i].dtype != port.dtype) {
      throw Error(ErrorCode::kInvalidType, "input '" + port.name + "' is " +
                                               name_of(inputs[i].dtype) + "; it must be " +
                                               name_of(port.dtype));
    }
    bool fits = inputs[i].dims.size() == port.shape.size();
    std::string wanted = "[";
    for (size_t axis = 0; axis < port.shape.size(); ++axis) {
      const Dim& dim = port.shape[axis];
      std::string size = dim.symbol.empty() ? std::to_string(dim.value) : dim.symbol;
      if (fits && dim.symbol.empty()) fits = inputs[i].dims[axis] == dim.value;
      if (fits && !dim.symbol.empty()) {
        const auto [at, fresh] = seen.emplace(dim.symbol, inputs[i].dims[axis]);
        fits = fresh || at->second == inputs[i].dims[axis];
        if (!fresh) size += " = " + std::to_string(at->second);
      }
      wanted += (axis == 0 ? "" : ", ") + size;
    }
    if (!fits) {
      throw Error(ErrorCode::kInvalidArgument, "input '" + port.name + "' has shape " +
                                                   to_string(inputs[i].dims) + "; it must be " +
                                                   wanted + "]");
    }
  }
}

}  // namespace gruengine
