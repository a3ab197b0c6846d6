// SPDX-License-Identifier: MIT
#include <algorithm>

#include "ops/ops.h"

namespace gruengine {

double number(const NodeBuilder& b, const std::string& name, double otherwise) {
  const auto found = b.node().attributes.find(name);
  if (found != b.node().attributes.end()) {
    if (const auto* value = std::get_if<int64_t>(&found->second)) {
      return static_cast<double>(*value);
    }
  }
  return b.attr(name, otherwise);
}

std::string label(const NodeBuilder& b) {
  const Node& node = b.node();
  return node.name.empty() ? node.op : node.op + " '" + node.name + "'";
}

std::vector<int> normal_axes(const NodeBuilder& b, const std::vector<int64_t>& axes, size_t rank) {
  std::vector<int> result;
  result.reserve(axes.size());
  for (const int64_t axis : axes) result.push_back(b.axis(axis, rank));
  std::sort(result.begin(), result.end());
  if (std::adjacent_find(result.begin(), result.end()) != result.end()) {
    b.refuse(ErrorCode::kInvalidArgument, "axes " + to_string(axes) + " name one axis twice");
  }
  return result;
}

int64_t product(const Dims& dims, size_t first, size_t last) {
  int64_t result = 1;
  for (size_t i = first; i < last; ++i) result *= dims[i];
  return result;
}

Time view_time(const NodeBuilder& b, size_t i, const Dims& dims) {
  const Value& value = b.in(i);
  if (value.time.kind != Time::kFrames) return value.time;
  const auto axis = static_cast<size_t>(value.time.axis);
  const int64_t before = product(value.dims, 0, axis);
  for (size_t j = 0; j < dims.size(); ++j) {
    if (dims[j] == value.dims[axis] && product(dims, 0, j) == before) {
      return frames(static_cast<int>(j));
    }
  }
  b.mixes_time("sees " + to_string(value.dims) + " as " + to_string(dims) +
               ", which merges or splits the time axis");
  return {};
}

Time time_along(const NodeBuilder& b, size_t i, int axis, const char* what) {
  const Time time = b.time_along(i, axis, what);
  return time == frames(axis) ? Time{} : time;
}

Time merge_times(const NodeBuilder& b, Time one, Time other) {
  if (one.kind == Time::kConstant) return other;
  if (other.kind == Time::kConstant || one == other) return one;
  b.mixes_time(one.kind == other.kind ? "combines two values whose time axes do not line up"
                                      : "combines single frames with the last value of a series");
  return one.kind == Time::kFrames ? one : other;
}

Time marked_time(const NodeBuilder& b, const Dims& dims) {
  if (b.marked_frames() == 0) return {};
  const auto found = std::find(dims.begin(), dims.end(), b.marked_frames());
  return found == dims.end() ? Time{} : frames(static_cast<int>(found - dims.begin()));
}

bool counts_frames(const Value& value) {
  return value.constant != nullptr && value.sized_by_time && value.time.kind != Time::kFrames;
}

void check_data(const NodeBuilder& b, const std::vector<size_t>& inputs) {
  const auto counts = [&](size_t i) { return counts_frames(b.in(i)); };
  const auto known = [&](size_t i) { return b.in(i).constant != nullptr; };
  if (std::any_of(inputs.begin(), inputs.end(), counts) &&
      !std::all_of(inputs.begin(), inputs.end(), known)) {
    b.mixes_time("uses the number of frames as data");
  }
}

}  // namespace gruengine
