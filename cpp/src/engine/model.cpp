// SPDX-License-Identifier: MIT
#include "gruengine/model.h"

#include <cstring>

#include "engine/engine.h"
#include "engine/state.h"

namespace gruengine {

namespace {

std::map<std::string, ConstView> views(const std::map<std::string, Tensor>& tensors) {
  std::map<std::string, ConstView> all;
  for (const auto& [name, tensor] : tensors) all[name] = {tensor.data, tensor.dtype, tensor.dims};
  return all;
}

std::vector<Dims> dims_of(const std::vector<ConstView>& inputs) {
  std::vector<Dims> dims;
  for (const ConstView& input : inputs) dims.push_back(input.dims);
  return dims;
}

}  // namespace

Model::Model(std::unique_ptr<Engine> engine) : engine_(std::move(engine)) {}
Model::~Model() = default;

std::shared_ptr<const Model> Model::open(const std::string& path, const ModelOptions& options) {
  return std::make_shared<const Model>(std::make_unique<Engine>(ModelFile::open(path), options));
}

std::shared_ptr<const Model> Model::from_memory(std::vector<uint8_t> bytes,
                                                const ModelOptions& options) {
  return std::make_shared<const Model>(
      std::make_unique<Engine>(ModelFile::from_memory(std::move(bytes)), options));
}

const std::vector<Port>& Model::inputs() const { return engine_->file().graph.inputs; }
const std::vector<Port>& Model::outputs() const { return engine_->file().graph.outputs; }
const std::vector<StatePair>& Model::state_pairs() const { return engine_->file().state; }
const Streaming& Model::streaming() const { return engine_->streaming(); }
const std::string& Model::hash() const { return engine_->file().hash(); }
const std::string& Model::provenance() const { return engine_->file().provenance_json; }
std::span<const uint8_t> Model::file() const { return engine_->file().bytes(); }
std::string Model::isa() const { return engine_->kernels().isa; }
int Model::num_threads() const { return engine_->options().num_threads; }
ComputeType Model::compute_type() const { return engine_->compute_type(); }
int64_t Model::packed_bytes() const { return engine_->weights().bytes(); }
std::map<std::string, ConstView> Model::parity_inputs() const {
  return views(engine_->file().parity.inputs);
}
std::map<std::string, ConstView> Model::parity_outputs() const {
  return views(engine_->file().parity.outputs);
}
const std::string& Model::parity_oracle() const { return engine_->file().parity.oracle; }

void Model::run(const std::vector<ConstView>& inputs, const OutputAllocator& allocate) const {
  engine_->check_inputs(inputs, false);
  PlanRequest request;
  request.inputs = dims_of(inputs);
  request.time = engine_->streaming().time;
  const Engine::Lease workspace(*engine_, engine_->plan(request));
  const auto& outputs = workspace->plan().outputs;
  for (size_t i = 0; i < inputs.size(); ++i) workspace->set_input(i, inputs[i].data);
  for (size_t i = 0; i < outputs.size(); ++i) {
    workspace->set_output(i, allocate(i, outputs[i].dtype, outputs[i].dims));
  }
  workspace->run(num_threads());
}

namespace {

// Keeps the outputs of a run as arrays of their own.
OutputAllocator into(std::vector<Array>& arrays) {
  return [&arrays](size_t i, DType dtype, const Dims& dims) -> void* {
    return arrays[i].prepare(dtype, dims);
  };
}

size_t index_of(const std::vector<Port>& ports, const std::string& name, const char* kind) {
  std::string names;
  for (size_t i = 0; i < ports.size(); ++i) {
    if (ports[i].name == name) return i;
    names += (i == 0 ? "'" : ", '") + ports[i].name + "'";
  }
  throw Error(ErrorCode::kInvalidArgument,
              std::string("there is no ") + kind + " '" + name + "'; the model has " + names);
}

}  // namespace

std::vector<Array> Model::run(const std::vector<ConstView>& inputs) const {
  std::vector<Array> arrays(outputs().size());
  run(inputs, into(arrays));
  return arrays;
}

std::vector<Array> Model::run_from(const std::vector<ConstView>& inputs,
                                   std::vector<uint8_t>& state,
                                   const std::vector<int64_t>& lengths) const {
  std::vector<Array> arrays(outputs().size());
  run_from(inputs, lengths.empty() ? nullptr : lengths.data(), static_cast<int64_t>(lengths.size()),
           state, into(arrays));
  return arrays;
}

size_t Model::input_index(const std::string& name) const {
  return index_of(inputs(), name, "input");
}
size_t Model::output_index(const std::string& name) const {
  return index_of(outputs(), name, "output");
}

namespace {

// Shapes of all inputs, those of state inputs taken from the symbols of the others.
std::vector<Dims> complete_dims(const Engine& engine, const std::vector<Dims>& given) {
  Sizes sizes;
  const auto& ports = engine.file().graph.inputs;
  for (size_t i = 0; i < ports.size(); ++i) {
    if (engine.is_state_input(ports[i].name)) continue;
    for (size_t axis = 0; axis < ports[i].shape.size(); ++axis) {
      const std::string& symbol = ports[i].shape[axis].symbol;
      if (!symbol.empty()) sizes[symbol] = given[i][axis];
    }
  }
  for (size_t i = 0; i < ports.size(); ++i) {
    if (!engine.is_state_input(ports[i].name)) continue;
    for (size_t axis = 0; axis < ports[i].shape.size(); ++axis) {
      const std::string& symbol = ports[i].shape[axis].symbol;
      // A size of its own: what was given, else the batch is taken to be one row.
      if (!symbol.empty() && sizes.count(symbol) == 0) {
        sizes[symbol] = axis < given[i].size() ? given[i][axis] : 1;
      }
    }
  }
  return engine.input_dims(sizes);
}

PlanRequest stateful_request(const Engine& engine, const std::vector<Dims>& given, bool lengths) {
  PlanRequest request;
  request.inputs = complete_dims(engine, given);
  request.time = engine.streaming().time;
  request.stateful = true;
  request.lengths = lengths;
  return request;
}

}  // namespace

std::vector<StateEntry> Model::state_layout(const std::vector<Dims>& inputs) const {
  return entries_of(*engine_->plan(stateful_request(*engine_, inputs, false)));
}

void Model::run_from(const std::vector<ConstView>& inputs, const int64_t* lengths, int64_t rows,
                     std::vector<uint8_t>& state, const OutputAllocator& allocate) const {
  engine_->check_inputs(inputs, true);
  const PlanRequest request = stateful_request(*engine_, dims_of(inputs), lengths != nullptr);
  const Engine::Lease workspace(*engine_, engine_->plan(request));
  const Plan& plan = workspace->plan();
  if (lengths != nullptr) check_lengths(*engine_, request, lengths, rows);
  Buffer block(static_cast<size_t>(plan.state_bytes));
  if (state.empty()) {
    reset_state(plan, block.data());
  } else if (state.size() == block.size()) {
    std::memcpy(block.data(), state.data(), state.size());
  } else {
    throw Error(ErrorCode::kInvalidArgument, "the state has " + std::to_string(state.size()) +
                                                 " bytes; these inputs need " +
                                                 std::to_string(block.size()));
  }
  workspace->set_state(block.data());
  workspace->set_lengths(lengths);
  for (size_t i = 0; i < inputs.size(); ++i) workspace->set_input(i, inputs[i].data);
  for (size_t i = 0; i < plan.outputs.size(); ++i) {
    if (!engine_->is_returned(outputs()[i].name)) continue;
    workspace->set_output(i, allocate(i, plan.outputs[i].dtype, plan.outputs[i].dims));
  }
  workspace->run(num_threads());
  state.assign(block.data(), block.data() + block.size());
}

}  // namespace gruengine
