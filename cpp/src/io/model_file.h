// SPDX-License-Identifier: MIT
// A model file, opened and checked (docs/format.md). Everything the engine knows of a model.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fork_mutex.h"
#include "gruengine/graph.h"
#include "io/graph_json.h"
#include "io/mapped_file.h"
#include "io/safetensors.h"

namespace gruengine {

// One recorded run of the model; empty when the file has none.
struct ParitySample {
  std::map<std::string, Tensor> inputs;
  std::map<std::string, Tensor> outputs;
  std::string oracle;  // who computed the outputs
};

// Owns the bytes that its tensors point to. Immutable and shared by any number of threads.
class ModelFile {
 public:
  // Maps the file. Throws Error(kIo) or Error(kInvalidFile).
  static std::shared_ptr<const ModelFile> open(const std::string& path);
  // Throws Error(kInvalidFile).
  static std::shared_ptr<const ModelFile> from_memory(std::vector<uint8_t> bytes);

  Graph graph;
  std::map<std::string, Tensor> tensors;
  std::vector<StatePair> state;
  ParitySample parity;
  std::string provenance_json;
  std::string compute_type;  // "float32" unless the file says otherwise

  // The whole file.
  std::span<const uint8_t> bytes() const {
    return mapping_ != nullptr ? mapping_->bytes() : std::span<const uint8_t>(memory_);
  }

  // SHA-256 over graph, state pairs and tensors, in hexadecimal; computed on the first call.
  const std::string& hash() const;

 private:
  ModelFile() = default;
  void read(std::span<const uint8_t> bytes);
  void align(Tensor& tensor);
  void expand(Safetensors& container, const Description& description);

  std::unique_ptr<MappedFile> mapping_;
  std::vector<uint8_t> memory_;
  std::vector<std::unique_ptr<uint64_t[]>> copies_;  // of tensors that lie unaligned in the file
  mutable ForkMutex hash_mutex_;
  mutable std::string hash_;
};

}  // namespace gruengine
