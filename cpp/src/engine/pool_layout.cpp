// SPDX-License-Identifier: MIT
#include "engine/pool_layout.h"

#include <algorithm>
#include <cstring>

#include "engine/state.h"

namespace gruengine {
namespace {

constexpr size_t kMostTries = 64;

int64_t product(const Dims& dims, int begin, int end) {
  int64_t n = 1;
  for (int i = begin; i < end; ++i) n *= dims[static_cast<size_t>(i)];
  return n;
}

[[noreturn]] void refuse(const std::string& why) {
  throw Error(ErrorCode::kUnsupported,
              "the streams of this model cannot be stepped as one batch: " + why);
}

Dims with(Dims dims, int axis, int64_t size) {
  if (axis >= 0) dims[static_cast<size_t>(axis)] = size;
  return dims;
}

}  // namespace

PoolStrides::PoolStrides(const PoolPort& port)
    : timed(port.time_axis >= 0), time_first(timed && port.time_axis < port.row_axis) {
  const int rank = static_cast<int>(port.dims.size());
  const int first = timed ? std::min(port.time_axis, port.row_axis) : port.row_axis;
  const int second = timed ? std::max(port.time_axis, port.row_axis) : port.row_axis;
  outer = product(port.dims, 0, first);
  mid = product(port.dims, first + 1, second);
  inner = product(port.dims, second + 1, rank) * size_of(port.dtype);
  row_bytes = outer * mid * inner;
}

PoolLayout::PoolLayout(std::shared_ptr<const Model> model, const Sizes& sizes)
    : model_(std::move(model)), sizes_(sizes) {
  const Streaming& streaming = engine().streaming();
  if (streaming.form == Streaming::Form::kNone) {
    throw Error(ErrorCode::kUnsupported, "the model does not stream: " +
                                             (streaming.node.empty() ? "" : streaming.node + " ") +
                                             streaming.reason);
  }
  const auto& graph = engine().file().graph;
  for (size_t i = 0; i < graph.inputs.size(); ++i) {
    if (!engine().is_state_input(graph.inputs[i].name)) ins.push_back(i);
  }
  for (size_t i = 0; i < graph.outputs.size(); ++i) {
    if (engine().is_returned(graph.outputs[i].name)) outs.push_back(i);
  }
  find_rows();
  describe();
}

PlanRequest PoolLayout::request(int64_t rows, int64_t frames) const {
  Sizes all = sizes_;
  const auto& ports = engine().file().graph.inputs;
  for (size_t i = 0; i < ports.size(); ++i) {
    const std::string& symbol = ports[i].shape[static_cast<size_t>(row_axes_[i])].symbol;
    if (!symbol.empty()) all[symbol] = rows;
  }
  if (by_frames()) all[engine().streaming().time] = frames;
  PlanRequest request;
  request.inputs = engine().input_dims(all);
  for (size_t i = 0; i < request.inputs.size(); ++i) {
    // Rows of a size that the graph fixes to one.
    request.inputs[i] = with(request.inputs[i], row_axes_[i], rows);
  }
  request.time = engine().streaming().time;
  request.stateful = true;
  request.rows = !by_frames();
  return request;
}

// For each graph input the axes that may be its rows: the one named like the batch, else those
// that are open, else those whose size is fixed to one.
std::vector<std::vector<int>> PoolLayout::candidates() const {
  const Streaming& streaming = engine().streaming();
  std::vector<std::vector<int>> all;
  for (const Port& port : engine().file().graph.inputs) {
    std::vector<int> batch, open, single;
    for (size_t axis = 0; axis < port.shape.size(); ++axis) {
      const Dim& dim = port.shape[axis];
      const int at = static_cast<int>(axis);
      if (dim.value == 1) single.push_back(at);
      if (dim.symbol.empty() || (by_frames() && dim.symbol == streaming.time)) continue;
      if (dim.symbol == streaming.batch) batch.push_back(at);
      if (sizes_.count(dim.symbol) == 0) open.push_back(at);
    }
    const auto& axes = !batch.empty() ? batch : !open.empty() ? open : single;
    if (axes.empty()) refuse("input '" + port.name + "' has no axis for rows");
    all.push_back(axes);
  }
  return all;
}

// Tries every choice of candidates until one is proven to keep rows apart.
void PoolLayout::find_rows() {
  const auto choices = candidates();
  std::vector<size_t> at(choices.size(), 0);
  std::string why;
  for (size_t tries = 0; tries < kMostTries; ++tries) {
    std::vector<int> axes;
    for (size_t i = 0; i < choices.size(); ++i) axes.push_back(choices[i][at[i]]);
    const std::string failed = try_rows(axes);
    if (failed.empty()) return;
    if (why.empty()) why = failed;
    size_t i = 0;
    while (i < at.size() && ++at[i] == choices[i].size()) at[i++] = 0;
    if (i == at.size()) break;
  }
  refuse(why);
}

// The analysis of time, with rows in its place: an operator that combines rows says so. "" when
// there is none.
std::string PoolLayout::try_rows(const std::vector<int>& axes) {
  row_axes_ = axes;
  PlanRequest marked = request(1, 1);
  mark_ = choose_mark(engine().file(), marked.inputs);
  marked = request(mark_, 1);
  marked.time.clear();
  marked.marked = mark_;
  marked.axes = axes;
  try {
    marked_ = engine().plan_once(marked);
    if (!marked_->failed_why.empty()) {
      const std::string& node = marked_->failed_node;
      return (node.empty() ? "" : node + " ") + marked_->failed_why +
             " (rows being what it calls time or frames)";
    }
    if (marked_->over_time > 0) return "a recurrent node steps from row to row";
    const auto& graph = engine().file().graph;
    for (size_t i = 0; i < graph.outputs.size(); ++i) {
      if (marked_->outputs[i].time.kind != Time::kFrames) {
        return "output '" + graph.outputs[i].name + "' has no axis for rows";
      }
    }
    for (const StatePair& pair : engine().file().state) {
      const auto port = [&](const std::vector<Port>& ports, const std::string& name) {
        return static_cast<size_t>(std::find_if(ports.begin(), ports.end(),
                                                [&](const Port& p) { return p.name == name; }) -
                                   ports.begin());
      };
      if (marked_->outputs[port(graph.outputs, pair.output)].time.axis !=
          axes[port(graph.inputs, pair.input)]) {
        return "state '" + pair.output + "' has its rows on another axis than '" + pair.input + "'";
      }
    }
    one_ = engine().plan(request(1, 1));
    return misfit(*one_, 1, 1);
  } catch (const Error& error) {
    return error.what();
  }
}

// Why a plan is not the marked one with other numbers of rows and frames; "" when it is.
std::string PoolLayout::misfit(const Plan& plan, int64_t rows, int64_t frames) const {
  if (!plan.failed_why.empty()) return plan.failed_node + " " + plan.failed_why;
  if (frames == 1 && rows > 1) {  // one row has no other to depend on
    for (const auto& [name, shapes] : marked_->shapes) {
      const auto found = plan.shapes.find(name);
      bool equal = found != plan.shapes.end() && found->second.size() == shapes.size();
      for (size_t i = 0; equal && i < shapes.size(); ++i) {
        const bool has_rows = shapes[i].time.kind == Time::kFrames;
        equal = found->second[i].dims ==
                with(shapes[i].dims, has_rows ? shapes[i].time.axis : -1, rows);
      }
      if (!equal) {
        return "'" + name + "' takes another form with " + std::to_string(rows) + " rows";
      }
    }
  }
  for (const size_t i : outs) {
    const Time rows_of = marked_->outputs[i].time, time = one_->outputs[i].time;
    const bool timed = by_frames() && time.kind == Time::kFrames;
    if (plan.outputs[i].dims !=
        with(with(one_->outputs[i].dims, rows_of.axis, rows), timed ? time.axis : -1, frames)) {
      return "an output takes another form with " + std::to_string(rows) + " rows of " +
             std::to_string(frames) + " frames";
    }
  }
  return "";
}

std::shared_ptr<const Plan> PoolLayout::plan(int64_t rows, int64_t frames) const {
  auto plan = engine().plan(request(rows, frames));
  std::string why = misfit(*plan, rows, frames);
  for (size_t k = 0; why.empty() && k < entries.size(); ++k) {
    if (plan->state[k].entry.dims != with(entries[k].entry.dims, entries[k].row_axis, rows)) {
      why = "state '" + entries[k].entry.name + "' takes another form";
    }
  }
  if (!why.empty()) refuse(why);
  return plan;
}

void PoolLayout::describe() {
  const auto two = engine().plan(request(2, 1));
  const auto& graph = engine().file().graph;
  const auto add = [&](const std::string& name, const Value& value, int row_axis, auto& ports,
                       auto& strides) {
    const int time_axis = by_frames() && value.time.kind == Time::kFrames ? value.time.axis : -1;
    ports.push_back({name, value.dtype, value.dims, row_axis, time_axis, count(value.dims)});
    strides.emplace_back(ports.back());
  };
  for (const size_t i : ins) {
    add(graph.inputs[i].name, one_->inputs[i], row_axes_[i], inputs, in_strides);
  }
  for (const size_t i : outs) {
    const int axis = marked_->outputs[i].time.axis;
    add(graph.outputs[i].name, one_->outputs[i], axis, outputs, out_strides);
  }
  for (size_t k = 0; k < one_->state.size(); ++k) {
    const StateEntry& entry = one_->state[k].entry;
    const Dims& more = two->state[k].entry.dims;
    int axis = -1, differ = 0;
    for (size_t a = 0; a < entry.dims.size(); ++a) {
      if (entry.dims[a] == more[a]) continue;
      axis = static_cast<int>(a);
      differ += entry.dims[a] == 1 && more[a] == 2 ? 1 : 2;
    }
    if (differ != 1) refuse("state '" + entry.name + "' is not one row for each stream");
    const int rank = static_cast<int>(entry.dims.size());
    entries.push_back({entry, axis, product(entry.dims, 0, axis),
                       product(entry.dims, axis + 1, rank) * size_of(entry.dtype), record_bytes});
    record_bytes += (entries.back().bytes() + 7) / 8 * 8;
  }
  record_bytes = (record_bytes + 15) / 16 * 16;
  initial.resize(static_cast<size_t>(record_bytes));
  Buffer block(static_cast<size_t>(one_->state_bytes));
  reset_state(*one_, block.data());
  from_block(block.data(), initial.data());
}

void PoolLayout::to_block(const char* record, char* block) const {
  for (const PoolEntry& e : entries) {
    std::memcpy(block + e.entry.offset, record + e.offset, static_cast<size_t>(e.bytes()));
  }
}

void PoolLayout::from_block(const char* block, char* record) const {
  for (const PoolEntry& e : entries) {
    std::memcpy(record + e.offset, block + e.entry.offset, static_cast<size_t>(e.bytes()));
  }
}

}  // namespace gruengine
