// SPDX-License-Identifier: MIT
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <set>
#include <string_view>

#include "gruengine/error.h"
#include "io/check_graph.h"
#include "io/json.h"

namespace gruengine {
namespace {

constexpr std::string_view kFunctions[] = {
#define GRU_FUNCTION(name, onnx_name) onnx_name,
#include "isa/functions.inc"
#undef GRU_FUNCTION
};
constexpr size_t kActivations = 11;  // the first of the list may be used in a cell
static_assert(kFunctions[kActivations - 1] == "Softplus");

constexpr std::array<const char*, 12> kInputs = {
    "X",         "W",         "R", "B",          "lengths",
    "initial_h", "initial_c", "P", "projection", "gate_recurrence",
    "norm",      "skip"};
enum Input : size_t {
  kX,
  kW,
  kR,
  kB,
  kLengths,
  kInitialH,
  kInitialC,
  kP,
  kProjection,
  kGateRecurrence,
  kNorm,
  kSkip
};

struct Sizes {
  std::string cell;
  int64_t d = 1, g = 1, h = 1, activations = 1;
};

class RecurrentChecker {
 public:
  RecurrentChecker(const Node& node, const std::map<std::string, Tensor>& tensors,
                   const std::string& title)
      : node_(node), tensors_(tensors), title_(title) {}

  void check() {
    read_sizes();
    check_flags();
    check_activations();
    check_ports();
    check_weights();
  }

 private:
  [[noreturn]] void refuse(const std::string& message) const {
    throw Error(ErrorCode::kInvalidFile, title_ + ": " + message);
  }

  // The attribute if it is there and a T; nullptr if it is absent.
  template <class T>
  const T* find(const char* name) const {
    const auto found = node_.attributes.find(name);
    if (found == node_.attributes.end()) return nullptr;
    const T* value = std::get_if<T>(&found->second);
    if (value == nullptr) refuse(std::string("attribute ") + name + " has another type");
    return value;
  }

  template <class T>
  const T& need(const char* name) const {
    const T* value = find<T>(name);
    if (value == nullptr) refuse(std::string("attribute ") + name + " is missing");
    return *value;
  }

  std::string choice(const char* name, std::initializer_list<const char*> allowed) const {
    const auto& value = need<std::string>(name);
    std::string list;
    for (const char* option : allowed) {
      if (value == option) return value;
      list += std::string(" ") + option;
    }
    refuse(std::string("attribute ") + name + " is " + quoted(value) + "; allowed:" + list);
  }

  void read_sizes() {
    sizes_.cell = choice("cell", {"rnn", "lstm", "gru"});
    const bool lstm = sizes_.cell == "lstm";
    const bool gru = sizes_.cell == "gru";
    sizes_.d =
        choice("direction", {"forward", "reverse", "bidirectional"}) == "bidirectional" ? 2 : 1;
    sizes_.g = lstm ? 4 : gru ? 3 : 1;
    sizes_.activations = sizes_.d * (lstm ? 3 : gru ? 2 : 1);
    sizes_.h = need<int64_t>("hidden_size");
    // So bounded, no product of the sizes below can overflow.
    constexpr int64_t kMaxSize = std::numeric_limits<int32_t>::max();
    if (sizes_.h < 1 || sizes_.h > kMaxSize) {
      refuse("attribute hidden_size is " + std::to_string(sizes_.h) + "; allowed: 1 to " +
             std::to_string(kMaxSize));
    }
  }

  void check_flags() const {
    static const std::set<std::string> kKnown = {
        "cell", "hidden_size", "direction", "activations", "activation_alpha", "activation_beta",
        "clip", "coupled",     "reset",     "update",      "zoneout",          "norm_epsilon"};
    for (const auto& [name, value] : node_.attributes) {
      if (kKnown.count(name) == 0) refuse("attribute " + quoted(name) + " is not known");
    }
    const double* clip = find<double>("clip");
    if (clip != nullptr && !(*clip >= 0 && std::isfinite(*clip))) {
      refuse("attribute clip is " + std::to_string(*clip) + "; allowed: finite and >= 0");
    }
    const int64_t* coupled = find<int64_t>("coupled");
    if (coupled != nullptr && *coupled != 0 && (*coupled != 1 || sizes_.cell != "lstm")) {
      refuse("attribute coupled is " + std::to_string(*coupled) +
             "; allowed: 0, or 1 with cell lstm");
    }
    check_variant();
    const bool gru = sizes_.cell == "gru";
    if (gru || find<std::string>("reset") != nullptr) choice("reset", {"after", "before"});
    if (gru || find<std::string>("update") != nullptr) choice("update", {"keep", "take"});
  }

  // What surrounds the cell.
  void check_variant() const {
    const auto* zoneout = find<std::vector<double>>("zoneout");
    const auto share = [](double value) { return value >= 0 && value < 1; };
    const bool lstm = sizes_.cell == "lstm";
    if (zoneout != nullptr && !(zoneout->size() == 2 && share((*zoneout)[0]) &&
                                share((*zoneout)[1]) && (lstm || (*zoneout)[1] == 0))) {
      refuse("attribute zoneout; allowed: two shares from 0 to below 1, that of c for lstm alone");
    }
    const double* epsilon = find<double>("norm_epsilon");
    if (epsilon != nullptr && !(*epsilon > 0 && std::isfinite(*epsilon))) {
      refuse("attribute norm_epsilon is " + std::to_string(*epsilon) + "; allowed: above 0");
    }
    if (has(kSkip) && zoneout != nullptr && ((*zoneout)[0] > 0 || (*zoneout)[1] > 0)) {
      refuse("input skip with zoneout; allowed: one of them");
    }
    if (!has(kGateRecurrence) && !has(kNorm)) return;
    const auto& names = need<std::vector<std::string>>("activations");
    bool standard = lstm;
    for (size_t i = 0; i < names.size(); ++i) {
      standard = standard && names[i] == (i % 3 == 0 ? "Sigmoid" : "Tanh");
    }
    const double* clip = find<double>("clip");
    const int64_t* coupled = find<int64_t>("coupled");
    standard = standard && (clip == nullptr || *clip == 0) && (coupled == nullptr || *coupled == 0);
    if (!standard) {
      refuse(
          "inputs gate_recurrence and norm; allowed: with cell lstm, activations Sigmoid, Tanh, "
          "Tanh, no clip and gates that are not coupled");
    }
  }

  void check_activations() const {
    const auto& names = need<std::vector<std::string>>("activations");
    const auto& alpha = need<std::vector<double>>("activation_alpha");
    const auto& beta = need<std::vector<double>>("activation_beta");
    const auto count = static_cast<size_t>(sizes_.activations);
    if (names.size() != count || alpha.size() != count || beta.size() != count) {
      refuse("activations, activation_alpha and activation_beta hold " +
             std::to_string(names.size()) + ", " + std::to_string(alpha.size()) + " and " +
             std::to_string(beta.size()) + "; allowed: " + std::to_string(count) + " each");
    }
    for (const std::string& name : names) {
      const auto* end = kFunctions + kActivations;
      if (std::find(kFunctions, end, name) == end) {
        refuse("activation " + quoted(name) + " is not one of ONNX's for recurrent cells");
      }
    }
  }

  bool has(size_t i) const { return i < node_.inputs.size() && !node_.inputs[i].empty(); }

  void check_ports() const {
    if (node_.inputs.size() > kInputs.size() || node_.outputs.size() > 3) {
      refuse(std::to_string(node_.inputs.size()) + " inputs and " +
             std::to_string(node_.outputs.size()) + " outputs; allowed: up to 12 and 3");
    }
    for (size_t i : {kX, kW, kR}) {
      if (!has(i)) refuse(std::string("input ") + kInputs[i] + " is absent");
    }
    if (sizes_.cell == "lstm") return;
    const bool cells = has(kSkip);  // the state of steps that are skipped is kept beside the cell
    if (has(kInitialC) && !cells) refuse("input initial_c needs cell lstm");
    if (has(kP)) refuse("input P needs cell lstm");
    if (node_.outputs.size() > 2 && !node_.outputs[2].empty() && !cells) {
      refuse("output Y_c needs cell lstm");
    }
  }

  const Dims& weight(size_t i) const {
    const auto found = tensors_.find(node_.inputs[i]);
    const std::string what = std::string("input ") + kInputs[i];
    if (found == tensors_.end()) refuse(what + " is computed; allowed: a constant");
    if (found->second.dtype != DType::kFloat32) {
      refuse(what + " is " + name_of(found->second.dtype) + "; allowed: float32");
    }
    return found->second.dims;
  }

  void expect(size_t i, const Dims& allowed) const {
    const auto list = [](const Dims& dims) {
      std::string text = "[";
      for (size_t k = 0; k < dims.size(); ++k) {
        text += (k == 0 ? "" : ", ") + std::to_string(dims[k]);
      }
      return text + "]";
    };
    const Dims& dims = weight(i);
    if (dims != allowed) {
      refuse(std::string("input ") + kInputs[i] + " has shape " + list(dims) +
             "; allowed: " + list(allowed) + " for cell " + sizes_.cell + ", hidden_size " +
             std::to_string(sizes_.h));
    }
  }

  // A size of a weight that no attribute states; at least 1.
  int64_t free_size(size_t i, size_t axis) const {
    const Dims& dims = weight(i);
    return dims.size() == 3 ? std::max<int64_t>(dims[axis], 1) : 1;
  }

  void check_weights() const {
    const auto [cell, d, g, h, activations] = sizes_;
    const int64_t k = has(kProjection) ? free_size(kProjection, 1) : h;
    expect(kW, {d, g * h, free_size(kW, 2)});
    expect(kR, {d, g * h, k});
    if (has(kB)) expect(kB, {d, 2 * g * h});
    if (has(kP)) expect(kP, {d, 3 * h});
    if (has(kProjection)) expect(kProjection, {d, k, h});
    if (has(kGateRecurrence)) expect(kGateRecurrence, {d, 3 * h, 3 * h});
    if (has(kNorm)) expect(kNorm, {d, 10 * h});
    if (has(kSkip)) expect(kSkip, {d, k + 1});
  }

  const Node& node_;
  const std::map<std::string, Tensor>& tensors_;
  const std::string& title_;
  Sizes sizes_;
};

}  // namespace

void check_recurrent(const Node& node, const std::map<std::string, Tensor>& tensors,
                     const std::string& title) {
  RecurrentChecker(node, tensors, title).check();
}

}  // namespace gruengine
