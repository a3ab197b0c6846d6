// SPDX-License-Identifier: MIT
#include "io/graph_json.h"

#include <initializer_list>
#include <memory>
#include <set>
#include <string_view>
#include <utility>

#include "gruengine/error.h"
#include "io/safetensors.h"

namespace gruengine {

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kInt64:
      return "int64";
    case DType::kInt32:
      return "int32";
    case DType::kBool:
      return "bool";
  }
  return "unknown";
}

namespace {

constexpr int64_t kFormat = 1;

// Reads the objects of the description; remembers how deep graphs are inside each other.
class DescriptionReader {
 public:
  explicit DescriptionReader(const std::string& text) : json_(text, "the description") {}

  Description read() {
    Description result;
    int64_t format = 0;
    object({"format", "graph", "state", "provenance", "tensors"},
           {"compute_type", "nibbles", "parity", "scales"}, [&](const std::string& key) {
             if (key == "format") {
               format = json_.integer();
               check_format(format);
             } else if (key == "graph") {
               result.graph = graph();
             } else if (key == "state") {
               json_.array([&] { result.state.push_back(state_pair()); });
             } else if (key == "provenance") {
               result.provenance = provenance();
             } else if (key == "tensors") {
               result.tensors = strings();
             } else if (key == "compute_type") {
               result.compute_type = json_.string();
             } else if (key == "scales") {
               json_.object([&](const std::string& name) {
                 result.scales.emplace_back(name, json_.string());
               });
             } else if (key == "nibbles") {
               json_.object([&](const std::string& name) {
                 const std::string what = "the shape of nibbles " + quoted(name);
                 result.nibbles.emplace_back(name, parse_sizes(json_, kMaxRank, what));
               });
             } else {
               parity(result);
             }
           });
    json_.end();
    return result;
  }

 private:
  using Keys = std::initializer_list<const char*>;

  // An object with all of the required keys and no others than those allowed.
  template <class Member>
  void object(Keys required, Keys optional, const Member& member) {
    size_t found = 0;
    json_.object([&](const std::string& key) {
      const auto in = [&](Keys keys) {
        for (const char* name : keys) {
          if (key == name) return true;
        }
        return false;
      };
      if (in(required)) {
        ++found;
      } else if (!in(optional)) {
        json_.fail("key " + quoted(key) + "; allowed: " + listed(required) + listed(optional));
      }
      member(key);
    });
    if (found != required.size()) json_.fail("an object needs the keys " + listed(required));
  }

  static std::string listed(Keys keys) {
    std::string text;
    for (const char* key : keys) text += std::string(key) + " ";
    return text;
  }

  void check_format(int64_t format) {
    if (format == kFormat) return;
    throw Error(ErrorCode::kInvalidFile, "format " + std::to_string(format) +
                                             "; this version reads format " +
                                             std::to_string(kFormat));
  }

  std::string provenance() {
    const std::string_view text = json_.skip();
    if (text[0] != '{') json_.fail("provenance is not an object");
    return std::string(text);
  }

  std::vector<std::string> strings() {
    std::vector<std::string> result;
    json_.array([&] { result.push_back(json_.string()); });
    return result;
  }

  StatePair state_pair() {
    std::vector<std::string> names = strings();
    if (names.size() != 2) json_.fail("a state pair is an input and an output");
    return {std::move(names[0]), std::move(names[1])};
  }

  void parity(Description& result) {
    const auto names = [&](auto& list) {
      json_.object([&](const std::string& key) { list.emplace_back(key, json_.string()); });
    };
    result.has_parity = true;
    object({"oracle", "inputs", "outputs"}, {}, [&](const std::string& key) {
      if (key == "oracle") {
        result.oracle = json_.string();
      } else {
        names(key == "inputs" ? result.parity_inputs : result.parity_outputs);
      }
    });
  }

  Graph graph() {
    if (++depth_ > kMaxGraphDepth) {
      json_.fail("graphs are nested deeper than " + std::to_string(kMaxGraphDepth));
    }
    Graph result;
    object({"inputs", "outputs", "nodes"}, {}, [&](const std::string& key) {
      if (key == "nodes") {
        json_.array([&] { result.nodes.push_back(node()); });
      } else {
        std::vector<Port>& ports = key == "inputs" ? result.inputs : result.outputs;
        json_.array([&] { ports.push_back(port()); });
      }
    });
    --depth_;
    return result;
  }

  Port port() {
    Port result;
    object({"name", "dtype", "shape"}, {}, [&](const std::string& key) {
      if (key == "name") {
        result.name = json_.string();
      } else if (key == "dtype") {
        result.dtype = dtype();
      } else {
        json_.array([&] { result.shape.push_back(dim()); });
      }
    });
    if (result.shape.size() > kMaxRank) {
      json_.fail("port " + quoted(result.name) + " has more than " + std::to_string(kMaxRank) +
                 " sizes");
    }
    return result;
  }

  DType dtype() {
    const std::string text = json_.string();
    for (DType dtype : {DType::kFloat32, DType::kInt64, DType::kInt32, DType::kBool}) {
      if (text == name_of(dtype)) return dtype;
    }
    json_.fail("dtype " + quoted(text) + "; allowed: float32, int64, int32, bool");
  }

  Dim dim() {
    Dim result;
    if (json_.next_is_string()) {
      result.symbol = json_.string();
      if (result.symbol.empty()) json_.fail("a size without a name");
    } else {
      result.value = json_.integer();
      if (result.value < 0) json_.fail("size " + std::to_string(result.value) + "; allowed: >= 0");
    }
    return result;
  }

  Node node() {
    Node result;
    object({"op", "name", "inputs", "outputs", "attrs"}, {}, [&](const std::string& key) {
      if (key == "op") {
        result.op = json_.string();
      } else if (key == "name") {
        result.name = json_.string();
      } else if (key == "inputs") {
        result.inputs = strings();
      } else if (key == "outputs") {
        result.outputs = strings();
      } else {
        json_.object([&](const std::string& name) { result.attributes[name] = attribute(); });
      }
    });
    return result;
  }

  Attribute attribute() {
    Attribute result;
    int count = 0;
    json_.object([&](const std::string& kind) {
      ++count;
      if (kind == "i") {
        result = json_.integer();
      } else if (kind == "f") {
        result = json_.number();
      } else if (kind == "s") {
        result = json_.string();
      } else if (kind == "ss") {
        result = strings();
      } else if (kind == "is") {
        std::vector<int64_t> values;
        json_.array([&] { values.push_back(json_.integer()); });
        result = std::move(values);
      } else if (kind == "fs") {
        std::vector<double> values;
        json_.array([&] { values.push_back(json_.number()); });
        result = std::move(values);
      } else if (kind == "g") {
        result = std::make_shared<const Graph>(graph());
      } else {
        json_.fail("attribute type " + quoted(kind) + "; allowed: i, f, s, is, fs, ss, g");
      }
    });
    if (count != 1) json_.fail("an attribute has one of i, f, s, is, fs, ss, g");
    return result;
  }

  JsonReader json_;
  int depth_ = 0;
};

}  // namespace

Description parse_description(const std::string& text) { return DescriptionReader(text).read(); }

}  // namespace gruengine
