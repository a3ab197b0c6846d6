// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "gruengine/graph.h"
#include "io/json.h"

namespace gruengine {

constexpr int kMaxGraphDepth = 16;

// The description of a model inside its file (docs/format.md), its names not checked yet.
struct Description {
  Graph graph;
  std::vector<StatePair> state;
  std::vector<std::string> tensors;
  std::string compute_type;  // that the model is kept in; "" when the file does not say
  std::vector<std::pair<std::string, std::string>> scales;  // an int8 tensor and that of its scales
  std::vector<std::pair<std::string, Dims>> nibbles;  // a tensor of two in a byte, and its shape
  std::string provenance = "{}";
  bool has_parity = false;
  std::string oracle;
  // Names of graph inputs and outputs, with the tensors that hold their sample.
  std::vector<std::pair<std::string, std::string>> parity_inputs, parity_outputs;
};

// Throws Error(kInvalidFile) when the text has another form.
Description parse_description(const std::string& text);

}  // namespace gruengine
