// SPDX-License-Identifier: MIT
#include "gruengine/call.h"

#include "engine/engine.h"

namespace gruengine {

struct Call::Impl {
  std::shared_ptr<const Model> model;
  std::unique_ptr<Workspace> workspace;
  size_t inputs;
};

Call::Call(std::shared_ptr<const Model> model, const std::vector<Dims>& inputs, bool lengths)
    : impl_(std::make_unique<Impl>()) {
  const Engine& engine = model->engine();
  const auto& ports = engine.file().graph.inputs;
  std::vector<ConstView> views;
  for (size_t i = 0; i < inputs.size(); ++i) {
    views.push_back({nullptr, i < ports.size() ? ports[i].dtype : DType::kFloat32, inputs[i]});
  }
  engine.check_inputs(views, false);
  PlanRequest request;
  request.inputs = inputs;
  request.time = engine.streaming().time;
  request.lengths = lengths;
  // Lengths need to know for sure which axis is time, as stateful plans do.
  request.stateful = lengths;
  auto plan = engine.plan(request);
  if (plan->state_bytes != 0) {
    throw Error(ErrorCode::kUnsupported,
                "a call with lengths needs a model whose states are inputs");
  }
  for (const Value& output : plan->outputs) outputs_.push_back(output.dims);
  impl_->model = std::move(model);
  impl_->workspace = std::make_unique<Workspace>(std::move(plan));
  impl_->inputs = inputs.size();
}

Call::~Call() = default;

int64_t Call::bytes() const { return impl_->workspace->plan().arena_bytes; }

void Call::run(const void* const* inputs, void* const* outputs, const int64_t* lengths) {
  Workspace& workspace = *impl_->workspace;
  for (size_t i = 0; i < impl_->inputs; ++i) workspace.set_input(i, inputs[i]);
  for (size_t i = 0; i < outputs_.size(); ++i) workspace.set_output(i, outputs[i]);
  if (lengths != nullptr) workspace.set_lengths(lengths);
  workspace.run(impl_->model->num_threads());
}

}  // namespace gruengine
