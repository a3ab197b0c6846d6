// SPDX-License-Identifier: MIT
#include <map>

#include "c_api/handles.h"

using gruengine::Error;
using gruengine::ErrorCode;
using gruengine::Stream;
using gruengine::c_api::check_pointers;
using gruengine::c_api::guarded;
using gruengine::c_api::need;
using gruengine::c_api::port_at;

gru_stream::gru_stream(std::unique_ptr<Stream> made) : stream(std::move(made)) {
  inputs.add(stream->inputs());
  outputs.add(stream->outputs());
}

namespace {

// The sizes that a stream would take from its first step, which C has to give.
std::string open_sizes(const gruengine::Model& model, const std::map<std::string, int64_t>& given) {
  std::string names;
  for (const auto& port : model.inputs()) {
    for (const auto& dim : port.shape) {
      const auto& s = model.streaming();
      if (dim.symbol.empty() || dim.symbol == s.time || dim.symbol == s.batch) continue;
      if (given.count(dim.symbol) != 0 || names.find("'" + dim.symbol + "'") != std::string::npos) {
        continue;
      }
      names += " '" + dim.symbol + "'";
    }
  }
  return names;
}

struct StopInC {
  gru_stop_fn stop;
  void* user;
  static bool wanted(void* self) {
    auto* in_c = static_cast<StopInC*>(self);
    return in_c->stop(in_c->user) != 0;
  }
};

}  // namespace

gru_status gru_stream_create(const gru_model* model, int64_t batch_size, const gru_size* sizes,
                             size_t num_sizes, gru_stream** stream) noexcept {
  return guarded([&] {
    need(stream, "stream") = nullptr;
    const auto& shared = need(model, "model").model;
    const auto given = gruengine::c_api::sizes_of(sizes, num_sizes);
    auto made = std::make_unique<Stream>(shared, batch_size, given);
    if (!made->ready()) {
      throw Error(ErrorCode::kInvalidArgument,
                  "the model leaves sizes open; give values for" + open_sizes(*shared, given));
    }
    *stream = new gru_stream(std::move(made));
  });
}

void gru_stream_free(gru_stream* stream) noexcept { delete stream; }

gru_status gru_stream_clone(const gru_stream* stream, gru_stream** clone) noexcept {
  return guarded([&] {
    need(clone, "clone") = nullptr;
    *clone = new gru_stream(need(stream, "stream").stream->clone());
  });
}

size_t gru_stream_num_inputs(const gru_stream* stream) noexcept {
  return stream == nullptr ? 0 : stream->inputs.size();
}
size_t gru_stream_num_outputs(const gru_stream* stream) noexcept {
  return stream == nullptr ? 0 : stream->outputs.size();
}
const gru_port* gru_stream_input(const gru_stream* stream, size_t i) noexcept {
  return port_at(stream, &gru_stream::inputs, i);
}
const gru_port* gru_stream_output(const gru_stream* stream, size_t i) noexcept {
  return port_at(stream, &gru_stream::outputs, i);
}
int64_t gru_stream_batch_size(const gru_stream* stream) noexcept {
  return stream == nullptr ? 0 : stream->stream->batch_size();
}

gru_status gru_stream_step(gru_stream* stream, const void* const* inputs,
                           void* const* outputs) noexcept {
  return guarded([&] {
    check_pointers(need(stream, "stream").inputs, inputs, stream->outputs, outputs);
    stream->stream->step(inputs, outputs);
  });
}

gru_status gru_stream_run(gru_stream* stream, int64_t frames, const void* const* inputs,
                          void* const* outputs, gru_stop_fn stop, void* user) noexcept {
  return guarded([&] {
    if (frames < 0) {
      throw Error(ErrorCode::kInvalidArgument,
                  "frames is " + std::to_string(frames) + "; it must be 0 or more");
    }
    StopInC in_c{stop, user};
    const gruengine::Stop asked{stop == nullptr ? nullptr : &StopInC::wanted, &in_c};
    check_pointers(need(stream, "stream").inputs, inputs, stream->outputs, outputs);
    stream->stream->run(frames, inputs, outputs, asked);
  });
}

gru_status gru_stream_reset(gru_stream* stream) noexcept {
  return guarded([&] { need(stream, "stream").stream->reset(); });
}

size_t gru_stream_state_size(const gru_stream* stream) noexcept {
  size_t size = 0;
  guarded([&] { size = need(stream, "stream").stream->packed_state_size(); });
  return size;
}

gru_status gru_stream_get_state(const gru_stream* stream, void* buffer, size_t size) noexcept {
  return guarded([&] {
    auto* bytes = &need(static_cast<uint8_t*>(buffer), "buffer");
    need(stream, "stream").stream->get_state(bytes, size);
  });
}

gru_status gru_stream_set_state(gru_stream* stream, const void* bytes, size_t size) noexcept {
  return guarded([&] {
    const auto* first = &need(static_cast<const uint8_t*>(bytes), "bytes");
    need(stream, "stream").stream->set_state(first, size);
  });
}
