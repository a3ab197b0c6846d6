// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <string>
#include <vector>

#include "gruengine/graph.h"

namespace gruengine {

// Checks names, topological order, state pairs and every Recurrent node, whatever the other
// operators are. Throws Error(kInvalidFile) with the first problem.
void check_graph(const Graph& graph, const std::map<std::string, Tensor>& tensors,
                 const std::vector<StatePair>& state);

// Checks a Recurrent node's attributes, and the sizes of its weights against them.
// Throws Error(kInvalidFile) whose message begins with `title`.
void check_recurrent(const Node& node, const std::map<std::string, Tensor>& tensors,
                     const std::string& title);

// Throws Error(kInvalidFile) unless `tensor` can be a value of `port`.
void check_sample(const Port& port, const Tensor& tensor, const std::string& what);

}  // namespace gruengine
