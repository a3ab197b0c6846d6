// SPDX-License-Identifier: MIT
// One live stream of a model: its state, and the memory of one step.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "gruengine/export.h"
#include "gruengine/model.h"

namespace gruengine {

// Shape of one array that goes into or comes out of a step.
struct StepPort {
  std::string name;
  DType dtype = DType::kFloat32;
  Dims dims;           // as the graph has it, the time axis being 1
  int time_axis = -1;  // -1: no time axis
  int64_t count = 0;   // elements
};

// Asked now and then whether a long run should end early.
struct Stop {
  bool (*wanted)(void* user) = nullptr;
  void* user = nullptr;
};

// Belongs to one caller at a time: a second concurrent call throws Error(kBusy).
class GRUENGINE_API Stream {
 public:
  // `sizes` gives values to symbols beside the batch. Symbols of a kCalls graph that stay open are
  // taken from the first step. Throws Error(kUnsupported) when the model does not stream.
  Stream(std::shared_ptr<const Model> model, int64_t batch_size,
         const std::map<std::string, int64_t>& sizes);
  explicit Stream(std::shared_ptr<const Model> model, int64_t batch_size = 1)
      : Stream(std::move(model), batch_size, {}) {}
  ~Stream();

  const Model& model() const;
  int64_t batch_size() const;

  // False while symbols are open; then the first prepare() decides them.
  bool ready() const { return ready_; }
  // Fixes open symbols by the dims of the inputs (state inputs left out).
  void prepare(const std::vector<Dims>& inputs);
  const std::vector<StepPort>& inputs() const { return inputs_; }
  const std::vector<StepPort>& outputs() const { return outputs_; }

  // One step. inputs[i]: inputs()[i].count elements; outputs[i] likewise, not aliasing the inputs.
  // Allocates nothing. A call that throws leaves the state as it was.
  void step(const void* const* inputs, void* const* outputs);
  // The same for models of one float32 input and output, with the sizes checked.
  void step(std::span<const float> x, std::span<float> y);
  // `frames` steps at once, bit for bit the same. kFrames: arrays as the graph has them with the
  // time axis being `frames`; kCalls: `frames` arrays of a step one after the other. An output
  // without time axis holds the value after the last frame (kFrames) or one value per call
  // (kCalls).
  // `stop` is asked between blocks of frames; when it says so, Error(kInterrupted) is thrown. A run
  // that throws leaves the state as it was before it, and part of the outputs written.
  void run(int64_t frames, const void* const* inputs, void* const* outputs, Stop stop = {});

  void reset();
  std::unique_ptr<Stream> clone() const;

  // Versioned bytes tied to the model's hash and the batch size.
  std::vector<uint8_t> get_state() const;
  // The same into memory of the caller, of packed_state_size() bytes; returns how many were
  // written. Throws Error(kInvalidArgument) when there is room for fewer.
  size_t get_state(uint8_t* bytes, size_t size) const;
  size_t packed_state_size() const;
  // Throws Error(kInvalidArgument) and changes nothing when the bytes are not of this model.
  void set_state(const uint8_t* bytes, size_t size);
  std::vector<StateEntry> state_layout() const;
  // The state itself, laid out so.
  std::vector<uint8_t> copy_state() const;
  // The same in place, for a caller that no other disturbs.
  uint8_t* state_data();
  size_t state_size() const;

 private:
  struct Impl;
  Stream(const Stream&) = delete;
  std::unique_ptr<Impl> impl_;
  std::vector<StepPort> inputs_;
  std::vector<StepPort> outputs_;
  bool ready_ = false;
  mutable std::atomic<bool> busy_{false};
};

}  // namespace gruengine
