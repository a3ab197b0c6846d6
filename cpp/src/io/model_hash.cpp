// SPDX-License-Identifier: MIT
#include "io/model_hash.h"

#include <bit>

#include "io/safetensors.h"
#include "io/sha256.h"

namespace gruengine {
namespace {

// Feeds values to SHA-256: integers as 8 little-endian bytes, everything else with its length.
class Walk {
 public:
  void integer(int64_t value) {
    uint8_t bytes[8];
    for (size_t i = 0; i < 8; ++i) {
      bytes[i] = static_cast<uint8_t>(static_cast<uint64_t>(value) >> (8 * i));
    }
    sha_.update(bytes, sizeof bytes);
  }

  void size(size_t value) { integer(static_cast<int64_t>(value)); }

  void text(const std::string& value) {
    size(value.size());
    sha_.update(value.data(), value.size());
  }

  void texts(const std::vector<std::string>& values) {
    size(values.size());
    for (const std::string& value : values) text(value);
  }

  void graph(const Graph& graph) {
    ports(graph.inputs);
    ports(graph.outputs);
    size(graph.nodes.size());
    for (const Node& one : graph.nodes) node(one);
  }

  void state(const std::vector<StatePair>& pairs) {
    size(pairs.size());
    for (const StatePair& pair : pairs) texts({pair.input, pair.output});
  }

  void tensors(const std::map<std::string, Tensor>& tensors) {
    size(tensors.size());
    for (const auto& [name, tensor] : tensors) {
      text(name);
      text(name_of(tensor.dtype));
      size(tensor.dims.size());
      for (int64_t dim : tensor.dims) integer(dim);
      const int64_t bytes = checked_bytes(tensor.dims, tensor.dtype, name);
      integer(bytes);
      sha_.update(tensor.data, static_cast<size_t>(bytes));
    }
  }

  std::string finish() { return sha_.finish(); }

 private:
  void ports(const std::vector<Port>& ports) {
    size(ports.size());
    for (const Port& port : ports) {
      text(port.name);
      text(name_of(port.dtype));
      size(port.shape.size());
      for (const Dim& dim : port.shape) {
        sha_.update(dim.symbol.empty() ? "i" : "s", 1);
        if (dim.symbol.empty()) {
          integer(dim.value);
        } else {
          text(dim.symbol);
        }
      }
    }
  }

  void node(const Node& node) {
    text(node.op);
    text(node.name);
    texts(node.inputs);
    texts(node.outputs);
    size(node.attributes.size());
    for (const auto& [name, value] : node.attributes) {
      text(name);
      std::visit([this](const auto& content) { attribute(content); }, value);
    }
  }

  void attribute(int64_t value) {
    text("i");
    integer(value);
  }
  void attribute(double value) {
    text("f");
    integer(std::bit_cast<int64_t>(value));
  }
  void attribute(const std::string& value) {
    text("s");
    text(value);
  }
  void attribute(const std::vector<int64_t>& values) {
    text("is");
    size(values.size());
    for (int64_t value : values) integer(value);
  }
  // An empty list hashes as one of integers, whatever type the file gives it.
  void attribute(const std::vector<double>& values) {
    text(values.empty() ? "is" : "fs");
    size(values.size());
    for (double value : values) integer(std::bit_cast<int64_t>(value));
  }
  void attribute(const std::vector<std::string>& values) {
    text(values.empty() ? "is" : "ss");
    texts(values);
  }
  void attribute(const std::shared_ptr<const Graph>& inner) {
    text("g");
    graph(*inner);
  }

  Sha256 sha_;
};

}  // namespace

std::string model_hash(const Graph& graph, const std::vector<StatePair>& state,
                       const std::map<std::string, Tensor>& tensors) {
  Walk walk;
  walk.text("gruengine model 1");
  walk.graph(graph);
  walk.state(state);
  walk.tensors(tensors);
  return walk.finish();
}

}  // namespace gruengine
