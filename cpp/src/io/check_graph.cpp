// SPDX-License-Identifier: MIT
#include "io/check_graph.h"

#include <algorithm>
#include <set>

#include "gruengine/error.h"
#include "io/json.h"

namespace gruengine {
namespace {

[[noreturn]] void refuse(const std::string& message) {
  throw Error(ErrorCode::kInvalidFile, "invalid model: " + message);
}

void check_name(const std::string& name, const std::string& what) {
  if (name.empty()) refuse(what + ": a name must not be empty");
  if (name.find('\0') != std::string::npos) {
    refuse(what + " " + quoted(name) + ": a name must hold no zero character");
  }
}

// Walks a graph and those inside it; the names that one defines are visible inside it only.
class GraphChecker {
 public:
  explicit GraphChecker(const std::map<std::string, Tensor>& tensors) : tensors_(tensors) {
    for (const auto& [name, tensor] : tensors) {
      check_name(name, "tensor");
      visible_.insert(name);
    }
  }

  void check(const Graph& graph, const std::string& where) {
    std::vector<std::string> defined;
    for (const Port& port : graph.inputs) {
      check_symbols(port, where + "graph input ");
      define(port.name, where + "graph input", defined);
    }
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
      const Node& node = graph.nodes[i];
      const std::string title = where + "node " + std::to_string(i) + " " + quoted(node.name) +
                                " (" + quoted(node.op) + ")";
      check_node(node, title);
      for (const std::string& name : node.outputs) {
        if (!name.empty()) define(name, title + ": output", defined);
      }
    }
    check_outputs(graph, where);
    for (const std::string& name : defined) visible_.erase(name);
  }

 private:
  void define(const std::string& name, const std::string& what, std::vector<std::string>& defined) {
    check_name(name, what);
    if (!visible_.insert(name).second) {
      refuse(what + " " + quoted(name) + ": this name is already defined");
    }
    defined.push_back(name);
  }

  void check_symbols(const Port& port, const std::string& what) {
    for (const Dim& dim : port.shape) {
      if (!dim.symbol.empty()) check_name(dim.symbol, what + quoted(port.name) + ": size");
    }
  }

  void check_outputs(const Graph& graph, const std::string& where) {
    std::set<std::string> names;
    for (const Port& port : graph.outputs) {
      const std::string what = where + "graph output " + quoted(port.name);
      check_symbols(port, where + "graph output ");
      if (visible_.count(port.name) == 0) refuse(what + " is computed by no node");
      if (!names.insert(port.name).second) refuse(what + " is listed twice");
    }
  }

  void check_node(const Node& node, const std::string& title) {
    check_name(node.op, title + ": operator");
    if (!node.name.empty()) check_name(node.name, title + ": name");
    for (const std::string& name : node.inputs) {
      if (!name.empty() && visible_.count(name) == 0) {
        refuse(title + ": input " + quoted(name) + " is not defined before this node");
      }
    }
    const auto named = [](const std::string& name) { return !name.empty(); };
    if (std::none_of(node.outputs.begin(), node.outputs.end(), named)) {
      refuse(title + ": no output has a name");
    }
    for (const auto& [name, value] : node.attributes) {
      const std::string what = title + ": attribute " + quoted(name);
      check_name(name, what);
      check_strings(value, what);
      if (const auto* inner = std::get_if<std::shared_ptr<const Graph>>(&value)) {
        check(**inner, what + ": ");
      }
    }
    if (node.op == "Recurrent") check_recurrent(node, tensors_, "invalid model: " + title);
  }

  static void check_strings(const Attribute& value, const std::string& what) {
    const auto check = [&](const std::string& text) {
      if (!text.empty()) check_name(text, what);
    };
    if (const auto* text = std::get_if<std::string>(&value)) check(*text);
    if (const auto* texts = std::get_if<std::vector<std::string>>(&value)) {
      std::for_each(texts->begin(), texts->end(), check);
    }
  }

  const std::map<std::string, Tensor>& tensors_;
  std::set<std::string> visible_;
};

std::map<std::string, const Port*> by_name(const std::vector<Port>& ports) {
  std::map<std::string, const Port*> result;
  for (const Port& port : ports) result[port.name] = &port;
  return result;
}

bool fit(const Dim& a, const Dim& b) { return a.value < 0 || b.value < 0 || a.value == b.value; }

void check_state(const Graph& graph, const std::vector<StatePair>& state) {
  const auto graph_inputs = by_name(graph.inputs);
  const auto graph_outputs = by_name(graph.outputs);
  std::set<std::string> inputs;
  std::set<std::string> outputs;
  for (const StatePair& pair : state) {
    const std::string what = "state pair " + quoted(pair.input) + " -> " + quoted(pair.output);
    const auto before = graph_inputs.find(pair.input);
    const auto after = graph_outputs.find(pair.output);
    if (before == graph_inputs.end() || after == graph_outputs.end()) {
      refuse(what + "; allowed: a graph input and a graph output");
    }
    if (!inputs.insert(pair.input).second || !outputs.insert(pair.output).second) {
      refuse(what + ": a name of another pair");
    }
    const Port& from = *before->second;
    const Port& to = *after->second;
    if (from.dtype != to.dtype ||
        !std::equal(from.shape.begin(), from.shape.end(), to.shape.begin(), to.shape.end(), fit)) {
      refuse(what + " joins different dtypes or sizes");
    }
  }
}

}  // namespace

void check_graph(const Graph& graph, const std::map<std::string, Tensor>& tensors,
                 const std::vector<StatePair>& state) {
  GraphChecker(tensors).check(graph, "");
  check_state(graph, state);
}

void check_sample(const Port& port, const Tensor& tensor, const std::string& what) {
  const bool fits =
      port.dtype == tensor.dtype &&
      std::equal(port.shape.begin(), port.shape.end(), tensor.dims.begin(), tensor.dims.end(),
                 [](const Dim& dim, int64_t size) { return dim.value < 0 || dim.value == size; });
  if (!fits) refuse(what + " " + quoted(port.name) + " has another dtype or other sizes than it");
}

}  // namespace gruengine
