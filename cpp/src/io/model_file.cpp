// SPDX-License-Identifier: MIT
#include "io/model_file.h"

#include <bit>
#include <cstring>
#include <set>
#include <utility>

#include "gruengine/error.h"
#include "io/check_graph.h"
#include "io/graph_json.h"
#include "io/json.h"
#include "io/model_hash.h"
#include "io/safetensors.h"
#include "io/stored.h"

namespace gruengine {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are used as the file has them");

constexpr char kMetadataKey[] = "gruengine";

[[noreturn]] void refuse(const std::string& message) {
  throw Error(ErrorCode::kInvalidFile, message);
}

// Takes a tensor out of the file: each belongs to one place.
Tensor take(std::map<std::string, Tensor>& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) {
    refuse("tensor " + quoted(name) + " is not in the file, or listed twice");
  }
  Tensor tensor = std::move(found->second);
  tensors.erase(found);
  return tensor;
}

void check_side(const std::vector<Port>& ports, const std::map<std::string, Tensor>& sample,
                const std::set<std::string>& optional, const std::string& what) {
  size_t used = 0;
  for (const Port& port : ports) {
    const auto found = sample.find(port.name);
    if (found == sample.end()) {
      if (optional.count(port.name) == 0) refuse("invalid model: no " + what + quoted(port.name));
      continue;
    }
    check_sample(port, found->second, what);
    ++used;
  }
  if (used != sample.size()) refuse("invalid model: a " + what + "that the graph does not have");
}

void check_parity(const Graph& graph, const std::vector<StatePair>& state,
                  const ParitySample& parity) {
  std::set<std::string> carried;
  for (const StatePair& pair : state) carried.insert(pair.input);
  std::set<std::string> outputs;
  for (const Port& port : graph.outputs) outputs.insert(port.name);
  if (parity.outputs.empty()) refuse("invalid model: a parity sample without outputs");
  check_side(graph.inputs, parity.inputs, carried, "parity input ");
  check_side(graph.outputs, parity.outputs, outputs, "parity output ");
}

}  // namespace

std::shared_ptr<const ModelFile> ModelFile::open(const std::string& path) {
  const std::shared_ptr<ModelFile> file(new ModelFile);
  file->mapping_ = std::make_unique<MappedFile>(path);
  try {
    file->read(file->mapping_->bytes());
  } catch (const Error& error) {
    throw Error(error.code(), quoted(path) + ": " + error.what());
  }
  return file;
}

std::shared_ptr<const ModelFile> ModelFile::from_memory(std::vector<uint8_t> bytes) {
  const std::shared_ptr<ModelFile> file(new ModelFile);
  file->memory_ = std::move(bytes);
  file->read(file->memory_);
  return file;
}

void ModelFile::read(std::span<const uint8_t> bytes) {
  Safetensors container = parse_safetensors(bytes);
  const auto text = container.metadata.find(kMetadataKey);
  if (text == container.metadata.end()) {
    refuse("no \"gruengine\" in __metadata__: these are tensors without a graph");
  }
  Description description = parse_description(text->second);
  for (const auto& [name, tensor] : description.parity_inputs) {
    parity.inputs[name] = take(container.tensors, tensor);
  }
  for (const auto& [name, tensor] : description.parity_outputs) {
    parity.outputs[name] = take(container.tensors, tensor);
  }
  expand(container, description);
  std::set<std::string> listed;
  for (const std::string& name : description.tensors) {
    const bool again = !listed.insert(name).second;
    if (again || tensors.count(name) == 0) tensors[name] = take(container.tensors, name);
  }
  if (!container.stored.empty()) {
    refuse("tensor " + quoted(container.stored.begin()->first) + " is listed nowhere");
  }
  if (!container.tensors.empty()) {
    refuse("tensor " + quoted(container.tensors.begin()->first) + " is listed nowhere");
  }
  graph = std::move(description.graph);
  state = std::move(description.state);
  parity.oracle = std::move(description.oracle);
  provenance_json = std::move(description.provenance);
  check_graph(graph, tensors, state);
  if (description.has_parity) check_parity(graph, state, parity);
  for (auto* group : {&tensors, &parity.inputs, &parity.outputs}) {
    for (auto& [name, tensor] : *group) align(tensor);
  }
}

// Makes floats of the weights that are kept in fewer bits.
void ModelFile::expand(Safetensors& container, const Description& description) {
  compute_type = description.compute_type.empty() ? "float32" : description.compute_type;
  if (compute_type != "float32" && compute_type != "bfloat16" && compute_type != "int8" &&
      compute_type != "bf16x3" && compute_type != "int4") {
    refuse("compute_type " + quoted(compute_type) +
           "; allowed: float32, bfloat16, int8, bf16x3, int4");
  }
  std::map<std::string, Tensor> scales;
  for (const auto& [name, scale] : description.scales) {
    if (container.stored.count(name) == 0)
      refuse("tensor " + quoted(name) + " has a scale; allowed: those of I8 and U8");
    scales[name] = take(container.tensors, scale);
  }
  std::set<std::string> shaped;
  for (const auto& [name, shape] : description.nibbles) {
    const auto found = container.stored.find(name);
    if (found == container.stored.end()) refuse("nibbles " + quoted(name) + " are not in the file");
    shape_nibbles(name, shape, found->second);
    shaped.insert(name);
  }
  for (const std::string& name : description.tensors) {
    const auto found = container.stored.find(name);
    if (found == container.stored.end()) continue;
    const StoredTensor& stored = found->second;
    if (stored.form == Form::kNibbles && shaped.count(name) == 0) {
      refuse("tensor " + quoted(name) + " is U8 without a shape of nibbles");
    }
    const auto bytes = static_cast<size_t>(checked_bytes(stored.dims, DType::kFloat32, "a tensor"));
    copies_.push_back(std::make_unique<uint64_t[]>(bytes / 8 + 1));
    auto* floats = reinterpret_cast<float*>(copies_.back().get());
    const auto scale = scales.find(name);
    expand_stored(name, stored, scale == scales.end() ? nullptr : &scale->second, floats);
    tensors[name] = {DType::kFloat32, stored.dims, floats};
    container.stored.erase(found);
  }
}

void ModelFile::align(Tensor& tensor) {
  const auto address = reinterpret_cast<uintptr_t>(tensor.data);
  if (address % static_cast<uintptr_t>(size_of(tensor.dtype)) == 0) return;
  const auto bytes = static_cast<size_t>(checked_bytes(tensor.dims, tensor.dtype, "a tensor"));
  copies_.push_back(std::make_unique<uint64_t[]>(bytes / 8 + 1));
  std::memcpy(copies_.back().get(), tensor.data, bytes);
  tensor.data = copies_.back().get();
}

const std::string& ModelFile::hash() const {
  const std::lock_guard lock(hash_mutex_);
  if (hash_.empty()) hash_ = model_hash(graph, state, tensors);
  return hash_;
}

}  // namespace gruengine
