// SPDX-License-Identifier: MIT
// One live stream of a model: its state, and the memory of one step.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

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

// Belongs to one caller at a time: a second concurrent call throws Error(kBusy).
class Stream {
 public:
  // `sizes` gives values to symbols beside the batch. Symbols of a kCalls graph that stay open are
  // taken from the first step. Throws Error(kUnsupported) when the model does not stream.
  Stream(std::shared_ptr<const Model> model, int64_t batch_size,
         const std::map<std::string, int64_t>& sizes);
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
  // `frames` steps at once, bit for bit the same. kFrames: arrays as the graph has them with the
  // time axis being `frames`; kCalls: `frames` arrays of a step one after the other. An output
  // without time axis holds the value after the last frame (kFrames) or one value per call
  // (kCalls).
  void run(int64_t frames, const void* const* inputs, void* const* outputs);

  void reset();
  std::unique_ptr<Stream> clone() const;

  // Versioned bytes tied to the model's hash and the batch size.
  std::vector<uint8_t> get_state() const;
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
