// SPDX-License-Identifier: MIT
#include "engine/planner.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace gruengine {
namespace {

constexpr int kMaxDepth = 32;
constexpr int64_t kMaxSlot = int64_t{1} << 48;
// Operators that move elements without changing them.
constexpr const char* kMoves[] = {"Shape",   "Gather",  "Slice",     "Squeeze", "Unsqueeze",
                                  "Concat",  "Reshape", "Identity",  "Cast",    "Expand",
                                  "Flatten", "Split",   "Transpose", "Tile"};

bool moves(const std::string& op) {
  return std::any_of(std::begin(kMoves), std::end(kMoves),
                     [&](const char* name) { return op == name; });
}

// Whether an integer constant holds `number`. Other constants: assumed to.
bool holds(const Value& value, int64_t number) {
  const int64_t n = count(value.dims);
  if (value.dtype == DType::kInt64) {
    const auto* at = static_cast<const int64_t*>(value.constant);
    return std::find(at, at + n, number) != at + n;
  }
  if (value.dtype == DType::kInt32) {
    const auto* at = static_cast<const int32_t*>(value.constant);
    return std::find(at, at + n, number) != at + n;
  }
  return true;
}

bool is_integer(const Value& value) {
  return value.dtype == DType::kInt64 || value.dtype == DType::kInt32;
}

std::string label(const Node& node) {
  return node.name.empty() ? node.op : node.op + " '" + node.name + "'";
}

}  // namespace

Planner::Planner(const PlanSource& source, const PlanRequest& request,
                 std::shared_ptr<const Plan> guide)
    : source_(source), request_(request), guide_(std::move(guide)) {
  for (const auto& [name, value] : source.constants) {
    fold_limit_ += 16 * count(value.dims) * size_of(value.dtype);
  }
}

std::shared_ptr<const Plan> Planner::build() {
  declare_inputs();
  plan_graph(source_.graph);
  index_ = static_cast<int>(plan_->slots.size()) + index_;  // outputs outlive every node
  declare_outputs();
  emit_state_copies();
  lay_out();
  if (guide_ != nullptr) {
    plan_->failed_node = guide_->failed_node;
    plan_->failed_why = guide_->failed_why;
    if (plan_->failed_why.empty()) plan_->failed_why = misfit_;
  }
  return plan_;
}

bool Planner::is_time(size_t input, size_t axis) const {
  if (!request_.axes.empty()) return request_.axes[input] == static_cast<int>(axis);
  const Port& port = source_.graph.inputs[input];
  return !request_.time.empty() && port.shape[axis].symbol == request_.time;
}

void Planner::declare_inputs() {
  const auto& ports = source_.graph.inputs;
  for (size_t i = 0; i < ports.size(); ++i) {
    Value value;
    value.dtype = ports[i].dtype;
    value.dims = request_.inputs[i];
    const int64_t bytes = count(value.dims) * size_of(value.dtype);
    for (size_t axis = 0; axis < ports[i].shape.size(); ++axis) {
      if (!is_time(i, axis)) continue;
      if (value.time.kind == Time::kFrames) fail_frames("", ports[i].name + " has two time axes");
      value.time = frames(static_cast<int>(axis));
      frames_ = value.dims[axis];
    }
    if (request_.stateful && is_state_input(ports[i].name)) {
      value.slot = state_slot(ports[i].name, value.dtype, value.dims, nullptr);
      value.carried = true;
      if (value.time.kind == Time::kConstant) value.time.kind = Time::kLatest;
    } else {
      SlotInfo info;
      info.base = SlotInfo::kInput;
      info.bytes = bytes;
      info.index = static_cast<int>(i);
      value.slot = new_slot(info);
    }
    note_integers(value);
    scopes_[0][ports[i].name] = value;
    plan_->inputs.push_back(value);
  }
  if (request_.lengths) {
    SlotInfo info;
    info.base = SlotInfo::kLengths;
    lengths_slot_ = new_slot(info);
  }
}

void Planner::plan_graph(const Graph& graph) {
  for (const Node& node : graph.nodes) {
    if (node.op == "If") {
      plan_if(node);
    } else {
      plan_node(node);
    }
    ++index_;
  }
}

void Planner::plan_node(const Node& node) {
  const PlanFunction plan = find_op(node.op);
  if (plan == nullptr) {
    throw Error(ErrorCode::kUnsupported, label(node) + ": this version does not run the operator");
  }
  fold_ = {};
  fold_.on = node.op != "Recurrent";
  bool carried = true;
  bool any = false;
  bool counted = false;  // an input was computed from the number of frames
  for (const std::string& name : node.inputs) {
    if (name.empty()) continue;
    const Value& input = value(node, name);
    touch(input.slot);
    any = true;
    fold_.on = fold_.on && input.constant != nullptr;
    fold_.sized_by_time = fold_.sized_by_time || (input.constant != nullptr && input.sized_by_time);
    counted = counted || (input.constant != nullptr && input.sized_by_time &&
                          !(is_integer(input) && holds(input, request_.marked)));
    carried = carried && (input.constant != nullptr || input.carried);
  }
  fold_.on = fold_.on && any;
  fold_.of_model = fold_arena_ != nullptr;
  NodeBuilder builder(*this, node);
  try {
    plan(builder);
  } catch (const Error& error) {
    const std::string what = error.what();
    if (what.rfind(label(node), 0) == 0) throw;
    throw Error(error.code(), label(node) + ": " + what);
  }
  for (const std::string& name : node.outputs) {
    if (name.empty()) continue;
    const auto found = scopes_.back().find(name);
    if (found == scopes_.back().end()) {
      builder.refuse(ErrorCode::kInvalidFile, "has no output '" + name + "' with these inputs");
    }
    Value& result = found->second;
    if (result.constant == nullptr) result.carried = carried && any;
    // Only now are the elements of a folded result there to be looked at.
    if (result.constant != nullptr && result.sized_by_time && request_.marked > 0 && !counted &&
        moves(node.op)) {
      result.sized_by_time = holds(result, request_.marked);
    }
  }
  plan_->temporaries.clear();
  fold_ = {};
}

void Planner::plan_if(const Node& node) {
  const Value& condition = value(node, node.inputs.empty() ? "" : node.inputs[0]);
  if (condition.constant == nullptr || condition.dtype != DType::kBool ||
      count(condition.dims) != 1) {
    throw Error(ErrorCode::kUnsupported,
                label(node) + ": its condition depends on data; it must follow from shapes alone");
  }
  // Rows may branch: the pool compares the plans of all numbers of rows with this one.
  if (condition.sized_by_time && request_.axes.empty()) {
    fail_frames(label(node), "branches on the number of frames");
  }
  if (++depth_ > kMaxDepth) {
    throw Error(ErrorCode::kInvalidFile, label(node) + ": subgraphs nest deeper than 32");
  }
  const bool yes = *static_cast<const uint8_t*>(condition.constant) != 0;
  const auto found = node.attributes.find(yes ? "then_branch" : "else_branch");
  const auto* branch = found == node.attributes.end()
                           ? nullptr
                           : std::get_if<std::shared_ptr<const Graph>>(&found->second);
  if (branch == nullptr || *branch == nullptr || (*branch)->outputs.size() < node.outputs.size()) {
    throw Error(ErrorCode::kInvalidFile, label(node) + ": a branch or an output of it is missing");
  }
  scopes_.emplace_back();
  plan_graph(**branch);
  std::vector<Value> results;
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    results.push_back(value(node, (*branch)->outputs[i].name));
  }
  scopes_.pop_back();
  for (size_t i = 0; i < results.size(); ++i) {
    if (node.outputs[i].empty()) continue;
    results[i].sized_by_time = results[i].sized_by_time || condition.sized_by_time;
    define(node.outputs[i], results[i]);
  }
  --depth_;
}

const Value* Planner::find(const std::string& name) {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    const auto found = scope->find(name);
    if (found != scope->end()) return &found->second;
  }
  const auto found = source_.constants.find(name);
  if (found == source_.constants.end()) return nullptr;
  Value value = found->second;
  value.slot =
      constant_slot(const_cast<void*>(value.constant), count(value.dims) * size_of(value.dtype));
  return &(scopes_[0][name] = value);
}

const Value& Planner::value(const Node& node, const std::string& name) {
  const Value* found = find(name);
  if (found == nullptr) {
    throw Error(ErrorCode::kInvalidFile, label(node) + ": nothing is named '" + name + "'");
  }
  return *found;
}

void Planner::define(const std::string& name, Value value) {
  touch(value.slot);
  note_integers(value);
  std::vector<Plan::Shape>& shapes = plan_->shapes[name];
  if (guide_ != nullptr) {
    const auto known = guide_->shapes.find(name);
    if (known != guide_->shapes.end() && shapes.size() < known->second.size()) {
      follow_guide(name, known->second[shapes.size()], value);
    }
  }
  shapes.push_back({value.time, value.dims});
  scopes_.back()[name] = std::move(value);
}

// Takes over where time lies, unless these frames give a value another form than marked ones do.
void Planner::follow_guide(const std::string& name, const Plan::Shape& marked, Value& value) {
  Dims dims = marked.dims;
  if (marked.time.kind == Time::kFrames) dims[static_cast<size_t>(marked.time.axis)] = frames_;
  if (dims == value.dims) {
    value.time = marked.time;
  } else if (value.constant == nullptr && misfit_.empty()) {
    misfit_ = "'" + name + "' has shape " + to_string(value.dims) + " when the time axis is " +
              std::to_string(frames_) + ", where longer ones make it " + to_string(dims);
  }
}

// Values of floats and booleans are never refused.
void Planner::note_integers(const Value& value) {
  plan_->may_fail = plan_->may_fail || (is_integer(value) && value.constant == nullptr);
}

Slot Planner::new_slot(SlotInfo info) {
  info.first = info.last = index_;
  plan_->slots.push_back(info);
  fold_slots_.push_back(info.address);
  return static_cast<Slot>(plan_->slots.size() - 1);
}

Slot Planner::constant_slot(void* address, int64_t bytes) {
  SlotInfo info;
  info.base = SlotInfo::kConstant;
  info.bytes = bytes;
  info.address = static_cast<char*>(address);
  return new_slot(info);
}

Slot Planner::arena_slot(int64_t bytes) {
  if (bytes < 0 || bytes > kMaxSlot) {
    throw Error(ErrorCode::kInvalidArgument, "these shapes need more memory than can be addressed");
  }
  SlotInfo info;
  info.bytes = (bytes + int64_t{kAlignment} - 1) / int64_t{kAlignment} * int64_t{kAlignment};
  return new_slot(info);
}

void Planner::touch(Slot slot) { plan_->slots[slot].last = index_; }

char* Planner::fold_memory(int64_t bytes) {
  folded_ += bytes;
  if (folded_ > fold_limit_) {
    throw Error(ErrorCode::kUnsupported,
                "constants of the graph unfold to over " + std::to_string(fold_limit_) + " bytes");
  }
  return (fold_arena_ != nullptr ? *fold_arena_ : plan_->constants).take(bytes);
}

Slot Planner::state_slot(const std::string& name, DType dtype, const Dims& dims,
                         const void* initial) {
  SlotInfo info;
  info.base = SlotInfo::kState;
  info.bytes = count(dims) * size_of(dtype);
  info.offset = plan_->state_bytes;
  plan_->state.push_back({{name, dtype, dims, info.offset}, initial});
  plan_->state_bytes +=
      (info.bytes + int64_t{kAlignment} - 1) / int64_t{kAlignment} * int64_t{kAlignment};
  return new_slot(info);
}

bool Planner::is_state_input(const std::string& name) const {
  return std::any_of(source_.state.begin(), source_.state.end(),
                     [&](const StatePair& pair) { return pair.input == name; });
}

bool is_returned(const Graph& graph, const std::vector<StatePair>& state,
                 const std::string& output) {
  const auto carried = [&](const std::string& name) {
    return std::any_of(state.begin(), state.end(),
                       [&](const StatePair& pair) { return pair.output == name; });
  };
  return !carried(output) || std::all_of(graph.outputs.begin(), graph.outputs.end(),
                                         [&](const Port& port) { return carried(port.name); });
}

void Planner::fail_frames(const std::string& node, const std::string& why) {
  if (!plan_->failed_why.empty()) return;
  plan_->failed_node = node;
  plan_->failed_why = why;
}

void Planner::fold(const Graph& graph, const std::vector<StatePair>& state,
                   const KernelTable& kernels, WeightStore& weights, Arena& arena,
                   std::map<std::string, Value>& constants) {
  const PlanSource source{graph, state, constants, weights, kernels, nullptr, nullptr, 1};
  const PlanRequest request;
  Planner planner(source, request);
  planner.fold_arena_ = &arena;
  for (const Node& node : graph.nodes) {
    const bool constant = !node.inputs.empty() && node.op != "If" && node.op != "Recurrent" &&
                          std::all_of(node.inputs.begin(), node.inputs.end(), [&](const auto& in) {
                            return in.empty() || constants.count(in) != 0;
                          });
    if (!constant) continue;
    planner.plan_node(node);
    for (const std::string& name : node.outputs) {
      if (!name.empty()) constants[name] = planner.value(node, name);
    }
  }
}

}  // namespace gruengine
