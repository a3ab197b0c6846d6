// SPDX-License-Identifier: MIT
// The graph of a model as its file states it: ONNX operators by name, plus "Recurrent".
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "gruengine/export.h"

namespace gruengine {

enum class DType : uint8_t { kFloat32, kInt64, kInt32, kBool };

constexpr int64_t size_of(DType dtype) {
  return dtype == DType::kInt64 ? 8 : dtype == DType::kBool ? 1 : 4;
}
GRUENGINE_API const char* name_of(DType dtype);  // "float32", "int64", "int32", "bool"

using Dims = std::vector<int64_t>;

// A size that is fixed, or named and known only when inputs arrive.
struct Dim {
  int64_t value = -1;  // >= 0 when fixed
  std::string symbol;  // not empty when named
};

struct Port {
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<Dim> shape;
};

struct Graph;

using Attribute =
    std::variant<int64_t, double, std::string, std::vector<int64_t>, std::vector<double>,
                 std::vector<std::string>, std::shared_ptr<const Graph>>;

struct Node {
  std::string op;
  std::string name;
  std::vector<std::string> inputs;   // "" where an optional input is absent
  std::vector<std::string> outputs;  // "" where an output is not used
  std::map<std::string, Attribute> attributes;
};

struct Graph {
  std::vector<Port> inputs;
  std::vector<Port> outputs;
  std::vector<Node> nodes;  // in topological order
};

// A constant of the file. Bytes are little-endian, row-major, and aligned to their element size.
struct Tensor {
  DType dtype = DType::kFloat32;
  Dims dims;
  const void* data = nullptr;
};

// A graph input and the graph output that is its next value.
struct StatePair {
  std::string input;
  std::string output;
};

}  // namespace gruengine
