// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <string>
#include <vector>

#include "gruengine/graph.h"

namespace gruengine {

// SHA-256 over what a model computes, in hexadecimal: graph, state pairs and tensors, whatever
// the order of the file (docs/format.md; gruengine/model_hash.py is the same walk).
std::string model_hash(const Graph& graph, const std::vector<StatePair>& state,
                       const std::map<std::string, Tensor>& tensors);

}  // namespace gruengine
