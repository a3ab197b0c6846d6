// SPDX-License-Identifier: MIT
// A loaded model: immutable, shared by any number of threads.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "gruengine/array.h"
#include "gruengine/error.h"
#include "gruengine/export.h"
#include "gruengine/graph.h"

namespace gruengine {

class Engine;  // engine/engine.h: the graph, its weights and its plans

// How products with weights are made. Everything else is float32 in each of them.
enum class ComputeType { kFloat32, kBfloat16, kInt8, kBf16x3, kInt4 };

GRUENGINE_API const char* name_of(ComputeType type);  // "float32", "bfloat16", ...
// Throws Error(kInvalidArgument) listing the names.
GRUENGINE_API ComputeType compute_type_named(const std::string& name);

struct ModelOptions {
  int num_threads = 1;
  std::optional<ComputeType> compute_type;  // none: that of the file
};

// How a model streams, or why it does not.
struct Streaming {
  enum class Form { kNone, kFrames, kCalls };
  Form form = Form::kNone;
  std::string time;    // kFrames: the symbol of the time axis
  std::string batch;   // the symbol of the batch axis, "" when it is fixed
  std::string node;    // kNone: the node that stands in the way, "" when it is the whole graph
  std::string reason;  // in words, for every form
};

// One array of a stream's state.
struct StateEntry {
  std::string name;  // "<node>.h", "<node>.c", or the graph input it stands for
  DType dtype = DType::kFloat32;
  Dims dims;
  int64_t offset = 0;  // in bytes, from the start of the state
};

// Called once for each output, in order, with its shape: returns where to write it.
using OutputAllocator = std::function<void*(size_t output, DType dtype, const Dims& dims)>;

class GRUENGINE_API Model {
 public:
  // Throws Error(kIo), Error(kInvalidFile) or Error(kUnsupported).
  static std::shared_ptr<const Model> open(const std::string& path,
                                           const ModelOptions& options = {});
  static std::shared_ptr<const Model> from_memory(std::vector<uint8_t> bytes,
                                                  const ModelOptions& options = {});

  const std::vector<Port>& inputs() const;
  const std::vector<Port>& outputs() const;
  const std::vector<StatePair>& state_pairs() const;
  const Streaming& streaming() const;
  const std::string& hash() const;
  const std::string& provenance() const;  // JSON
  std::span<const uint8_t> file() const;  // the bytes of the model file
  std::string isa() const;
  int num_threads() const;
  ComputeType compute_type() const;
  int64_t packed_bytes() const;
  // The recorded run of the file; empty when it has none.
  std::map<std::string, ConstView> parity_inputs() const;
  std::map<std::string, ConstView> parity_outputs() const;
  const std::string& parity_oracle() const;

  // Runs the graph on all its inputs, in the order of inputs().
  void run(const std::vector<ConstView>& inputs, const OutputAllocator& allocate) const;
  // The same into new arrays, in the order of outputs().
  std::vector<Array> run(const std::vector<ConstView>& inputs) const;

  // Runs whole sequences from a state and leaves the state after them in `state`, whose layout is
  // state_layout(inputs). Inputs of state pairs are taken from the state: their views are ignored.
  // An empty `state` starts from the initial state. `lengths` is [N] or nullptr; its rows stop
  // there.
  void run_from(const std::vector<ConstView>& inputs, const int64_t* lengths, int64_t rows,
                std::vector<uint8_t>& state, const OutputAllocator& allocate) const;
  // The same into new arrays; those of states stay empty.
  std::vector<Array> run_from(const std::vector<ConstView>& inputs, std::vector<uint8_t>& state,
                              const std::vector<int64_t>& lengths = {}) const;
  std::vector<StateEntry> state_layout(const std::vector<Dims>& inputs) const;

  // The place of a port of this name. Throws Error(kInvalidArgument).
  size_t input_index(const std::string& name) const;
  size_t output_index(const std::string& name) const;

  const Engine& engine() const { return *engine_; }
  Model(std::unique_ptr<Engine> engine);
  ~Model();

 private:
  std::unique_ptr<Engine> engine_;
};

}  // namespace gruengine
