// SPDX-License-Identifier: MIT
#include <algorithm>

#include "c_api/handles.h"

using gruengine::Array;
using gruengine::Dims;
using gruengine::Model;
using gruengine::c_api::guarded;
using gruengine::c_api::need;
using gruengine::c_api::views_of;

struct gru_result {
  std::vector<Array> arrays;
  std::vector<gru_array> seen;
  std::vector<bool> filled;
  std::vector<uint8_t> state;
};

struct gru_call {
  std::unique_ptr<gruengine::Call> call;
  std::shared_ptr<const Model> model;
  std::vector<gru_array> outputs;
};

namespace {

bool is_state(const Model& model, const std::string& input) {
  const auto& pairs = model.state_pairs();
  return std::any_of(pairs.begin(), pairs.end(),
                     [&](const auto& pair) { return pair.input == input; });
}

// The arrays of a run; those of states may have no data when the run carries the states.
std::vector<gruengine::ConstView> read_inputs(const Model& model, const gru_array* inputs,
                                              size_t count, bool carries_states) {
  auto views = views_of(inputs, count);
  for (size_t i = 0; i < count && i < model.inputs().size(); ++i) {
    const Dims& dims = views[i].dims;
    const bool empty = std::find(dims.begin(), dims.end(), 0) != dims.end();
    if (empty || (carries_states && is_state(model, model.inputs()[i].name))) continue;
    if (views[i].data == nullptr) gruengine::c_api::refuse_null("the data of an input");
  }
  return views;
}

void show(gru_result& result) {
  for (Array& array : result.arrays) {
    result.seen.push_back({array.memory.data(), static_cast<gru_dtype>(array.dtype),
                           static_cast<int32_t>(array.dims.size()), array.dims.data()});
  }
}

gruengine::OutputAllocator into(gru_result& result, const Model& model) {
  result.arrays.resize(model.outputs().size());
  result.filled.assign(result.arrays.size(), false);
  return [&result](size_t i, gruengine::DType dtype, const Dims& dims) -> void* {
    result.filled[i] = true;
    return result.arrays[i].prepare(dtype, dims);
  };
}

}  // namespace

gru_status gru_model_run(const gru_model* model, const gru_array* inputs, size_t num_inputs,
                         gru_result** result) noexcept {
  return guarded([&] {
    need(result, "result") = nullptr;
    const Model& m = *need(model, "model").model;
    auto made = std::make_unique<gru_result>();
    m.run(read_inputs(m, inputs, num_inputs, false), into(*made, m));
    show(*made);
    *result = made.release();
  });
}

gru_status gru_model_run_from(const gru_model* model, const gru_array* inputs, size_t num_inputs,
                              const int64_t* lengths, size_t num_lengths, const void* state,
                              size_t state_size, gru_result** result) noexcept {
  return guarded([&] {
    need(result, "result") = nullptr;
    const Model& m = *need(model, "model").model;
    if (num_lengths > 0) need(lengths, "lengths");
    if (state_size > 0) need(static_cast<const uint8_t*>(state), "state");
    auto made = std::make_unique<gru_result>();
    const auto* bytes = static_cast<const uint8_t*>(state);
    made->state.assign(bytes, bytes + state_size);
    m.run_from(read_inputs(m, inputs, num_inputs, true), num_lengths > 0 ? lengths : nullptr,
               static_cast<int64_t>(num_lengths), made->state, into(*made, m));
    show(*made);
    *result = made.release();
  });
}

void gru_result_free(gru_result* result) noexcept { delete result; }

const gru_array* gru_result_output(const gru_result* result, size_t i) noexcept {
  if (result == nullptr || i >= result->seen.size() || !result->filled[i]) return nullptr;
  return &result->seen[i];
}

const void* gru_result_state(const gru_result* result, size_t* size) noexcept {
  if (size != nullptr) *size = result == nullptr ? 0 : result->state.size();
  return result == nullptr || result->state.empty() ? nullptr : result->state.data();
}

gru_status gru_call_create(const gru_model* model, const gru_array* inputs, size_t num_inputs,
                           gru_call** call) noexcept {
  return guarded([&] {
    need(call, "call") = nullptr;
    auto made = std::make_unique<gru_call>();
    made->model = need(model, "model").model;
    const auto views = views_of(inputs, num_inputs);
    std::vector<Dims> dims;
    for (size_t i = 0; i < views.size(); ++i) {
      if (i < made->model->inputs().size() && views[i].dtype != made->model->inputs()[i].dtype) {
        throw gruengine::Error(gruengine::ErrorCode::kInvalidType,
                               "inputs[" + std::to_string(i) + "] is " + name_of(views[i].dtype) +
                                   "; it must be " + name_of(made->model->inputs()[i].dtype));
      }
      dims.push_back(views[i].dims);
    }
    made->call = std::make_unique<gruengine::Call>(made->model, dims, false);
    const auto& outputs = made->call->outputs();
    for (size_t i = 0; i < outputs.size(); ++i) {
      made->outputs.push_back({nullptr, static_cast<gru_dtype>(made->model->outputs()[i].dtype),
                               static_cast<int32_t>(outputs[i].size()), outputs[i].data()});
    }
    *call = made.release();
  });
}

void gru_call_free(gru_call* call) noexcept { delete call; }

const gru_array* gru_call_output(const gru_call* call, size_t i) noexcept {
  return call == nullptr || i >= call->outputs.size() ? nullptr : &call->outputs[i];
}

gru_status gru_call_run(gru_call* call, const void* const* inputs, void* const* outputs) noexcept {
  return guarded([&] {
    need(call, "call").call->run(&need(inputs, "inputs"), &need(outputs, "outputs"), nullptr);
  });
}
