// SPDX-License-Identifier: MIT
#include <cstring>

#include "c_api/handles.h"

using gruengine::ConstView;
using gruengine::Error;
using gruengine::ErrorCode;
using gruengine::Model;
using gruengine::c_api::guarded;
using gruengine::c_api::need;
using gruengine::c_api::port_at;

namespace {

gruengine::ModelOptions options_of(const gru_model_options* given) {
  gru_model_options own = GRU_MODEL_OPTIONS_INIT;
  if (given != nullptr) {
    gruengine::c_api::copy_struct(&own, sizeof own, given, given->size, "gru_model_options");
  }
  gruengine::ModelOptions options;
  options.num_threads = own.num_threads == 0 ? 1 : own.num_threads;
  if (own.compute_type != nullptr) {
    options.compute_type = gruengine::compute_type_named(own.compute_type);
  }
  return options;
}

gru_model* wrap(std::shared_ptr<const Model> model) {
  auto handle = std::make_unique<gru_model>();
  handle->inputs.add(model->inputs());
  handle->outputs.add(model->outputs());
  handle->isa = model->isa();
  handle->model = std::move(model);
  return handle.release();
}

}  // namespace

gru_status gru_model_load(const char* path, const gru_model_options* options,
                          gru_model** model) noexcept {
  return guarded([&] {
    need(model, "model") = nullptr;
    *model = wrap(Model::open(&need(path, "path"), options_of(options)));
  });
}

gru_status gru_model_load_memory(const void* bytes, size_t size, const gru_model_options* options,
                                 gru_model** model) noexcept {
  return guarded([&] {
    need(model, "model") = nullptr;
    const auto* first = &need(static_cast<const uint8_t*>(bytes), "bytes");
    *model =
        wrap(Model::from_memory(std::vector<uint8_t>(first, first + size), options_of(options)));
  });
}

void gru_model_free(gru_model* model) noexcept { delete model; }

size_t gru_model_num_inputs(const gru_model* model) noexcept {
  return model == nullptr ? 0 : model->inputs.size();
}
size_t gru_model_num_outputs(const gru_model* model) noexcept {
  return model == nullptr ? 0 : model->outputs.size();
}
const gru_port* gru_model_input(const gru_model* model, size_t i) noexcept {
  return port_at(model, &gru_model::inputs, i);
}
const gru_port* gru_model_output(const gru_model* model, size_t i) noexcept {
  return port_at(model, &gru_model::outputs, i);
}

size_t gru_model_num_states(const gru_model* model) noexcept {
  return model == nullptr ? 0 : model->model->state_pairs().size();
}

gru_status gru_model_state(const gru_model* model, size_t i, const char** input,
                           const char** output) noexcept {
  return guarded([&] {
    const auto& pairs = need(model, "model").model->state_pairs();
    if (i >= pairs.size()) {
      throw Error(ErrorCode::kInvalidArgument, "there is no state " + std::to_string(i) +
                                                   "; the model has " +
                                                   std::to_string(pairs.size()));
    }
    need(input, "input") = pairs[i].input.c_str();
    need(output, "output") = pairs[i].output.c_str();
  });
}

int32_t gru_model_streaming(const gru_model* model) noexcept {
  using Form = gruengine::Streaming::Form;
  if (model == nullptr) return GRU_STREAM_NONE;
  const Form form = model->model->streaming().form;
  return form == Form::kFrames  ? GRU_STREAM_FRAMES
         : form == Form::kCalls ? GRU_STREAM_CALLS
                                : GRU_STREAM_NONE;
}

const char* gru_model_streaming_reason(const gru_model* model) noexcept {
  return model == nullptr ? "" : model->model->streaming().reason.c_str();
}

const char* gru_model_info(const gru_model* model, const char* key) noexcept {
  if (model == nullptr || key == nullptr) return nullptr;
  const char* found = nullptr;
  const gru_status status = guarded([&] {
    const Model& m = *model->model;
    const auto is = [&](const char* name) { return std::strcmp(key, name) == 0; };
    if (is("hash")) found = m.hash().c_str();
    if (is("provenance")) found = m.provenance().c_str();
    if (is("isa")) found = model->isa.c_str();
    if (is("compute_type")) found = gruengine::name_of(m.compute_type());
    if (is("time")) found = m.streaming().time.c_str();
    if (is("batch")) found = m.streaming().batch.c_str();
  });
  return status == GRU_OK ? found : nullptr;
}

int32_t gru_model_num_threads(const gru_model* model) noexcept {
  return model == nullptr ? 0 : model->model->num_threads();
}
int64_t gru_model_packed_bytes(const gru_model* model) noexcept {
  return model == nullptr ? 0 : model->model->packed_bytes();
}
