// SPDX-License-Identifier: MIT
// Operators that look at the same bytes with other sizes, or at the sizes alone.
#include <algorithm>
#include <cstring>

#include "ops/ops.h"

namespace gruengine {
namespace {

void plan_view(NodeBuilder& b, const Dims& dims) { b.view(0, 0, dims, view_time(b, 0, dims)); }

// Puts rows in the place of a 1 of the asked shape that lies where they lie in `from`: for one row
// the same view. Whether that keeps every row apart is for the pool to prove.
bool place_rows(const Dims& from, Dims& dims) {
  const int64_t fixed = count(dims), total = count(from);
  if (fixed == 0 || total % fixed != 0) return false;
  for (size_t to = 0; to < dims.size(); ++to) {
    for (size_t axis = 0; axis < from.size(); ++axis) {
      if (dims[to] != 1 || from[axis] != total / fixed) continue;
      if (product(from, 0, axis) != product(dims, 0, to)) continue;
      dims[to] = from[axis];
      return true;
    }
  }
  return false;
}

// The sizes that Reshape asks for, with 0 and -1 resolved.
Dims reshaped(const NodeBuilder& b) {
  const Dims& from = b.in(0).dims;
  const Dims asked = b.ints(1);
  const bool keeps_zero = b.attr("allowzero", int64_t{0}) != 0;
  Dims dims = asked;
  const auto invalid = [&] {
    b.refuse(ErrorCode::kInvalidArgument, "cannot see shape " + to_string(from) + " as " +
                                              to_string(asked) + "; the counts must be equal");
  };
  Dims known;
  size_t open = dims.size();
  for (size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] == 0 && !keeps_zero) {
      if (i >= from.size()) invalid();
      dims[i] = from[i];
    }
    if (dims[i] < -1 || (dims[i] == -1 && open < dims.size())) invalid();
    if (dims[i] == -1) {
      open = i;
    } else {
      known.push_back(dims[i]);
    }
  }
  const int64_t total = count(from);
  const int64_t fixed = count(known);
  if (open < dims.size()) {
    if (fixed == 0 || total % fixed != 0) invalid();
    dims[open] = total / fixed;
  } else if (fixed != total && !(b.many_rows() && place_rows(from, dims))) {
    invalid();
  }
  return dims;
}

}  // namespace

void plan_identity(NodeBuilder& b) { plan_view(b, b.in(0).dims); }

void plan_dropout(NodeBuilder& b) {
  if (b.has(2) && b.scalar(2) != 0) {
    b.refuse(ErrorCode::kUnsupported, "training_mode is 1; only inference is supported");
  }
  plan_view(b, b.in(0).dims);
  if (!b.wants(1)) return;
  const Dims& dims = b.in(0).dims;
  const auto n = static_cast<size_t>(count(dims));
  b.emit([n, mask = b.output(1, DType::kBool, dims, b.in(0).time)](const Frame& f) {
    std::fill_n(f.at<uint8_t>(mask), n, uint8_t{1});
  });
}

void plan_reshape(NodeBuilder& b) { plan_view(b, reshaped(b)); }

void plan_flatten(NodeBuilder& b) {
  const Dims& dims = b.in(0).dims;
  const auto rank = static_cast<int64_t>(dims.size());
  const int64_t axis = b.attr("axis", int64_t{1});
  if (axis < -rank || axis > rank) {
    b.refuse(ErrorCode::kInvalidArgument,
             "axis " + std::to_string(axis) + " of a value with " + std::to_string(rank) + " axes");
  }
  const auto split = static_cast<size_t>(axis < 0 ? axis + rank : axis);
  plan_view(b, {product(dims, 0, split), product(dims, split, dims.size())});
}

void plan_squeeze(NodeBuilder& b) {
  const Dims& dims = b.in(0).dims;
  std::vector<int> axes;
  if (b.has(1)) {
    axes = normal_axes(b, b.ints(1), dims.size());
  } else {
    for (size_t i = 0; i < dims.size(); ++i) {
      if (dims[i] == 1) axes.push_back(static_cast<int>(i));
    }
  }
  Dims out;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (!std::binary_search(axes.begin(), axes.end(), static_cast<int>(i))) {
      out.push_back(dims[i]);
    } else if (dims[i] != 1) {
      b.refuse(ErrorCode::kInvalidArgument, "squeezes axis " + std::to_string(i) + " of " +
                                                to_string(dims) + "; its size must be 1");
    }
  }
  plan_view(b, out);
}

void plan_unsqueeze(NodeBuilder& b) {
  const Dims& dims = b.in(0).dims;
  const std::vector<int64_t> given = b.ints(1);
  const size_t rank = dims.size() + given.size();
  const std::vector<int> axes = normal_axes(b, given, rank);
  Dims out;
  auto next = dims.begin();
  for (size_t i = 0; i < rank; ++i) {
    const bool added = std::binary_search(axes.begin(), axes.end(), static_cast<int>(i));
    out.push_back(added ? 1 : *next++);
  }
  plan_view(b, out);
}

void plan_shape(NodeBuilder& b) {
  const Value& x = b.in(0);
  const auto rank = static_cast<int64_t>(x.dims.size());
  const auto bound = [&](const char* name, int64_t otherwise) {
    const int64_t at = b.attr(name, otherwise);
    return std::clamp<int64_t>(at < 0 ? at + rank : at, 0, rank);
  };
  const int64_t first = bound("start", 0);
  const int64_t last = std::max(first, bound("end", rank));
  const bool sized = x.time.kind == Time::kFrames && x.time.axis >= first && x.time.axis < last;
  void* sizes = b.constant_output(0, DType::kInt64, {last - first}, sized);
  std::copy(x.dims.begin() + first, x.dims.begin() + last, static_cast<int64_t*>(sizes));
}

void plan_size(NodeBuilder& b) {
  const Value& x = b.in(0);
  void* size = b.constant_output(0, DType::kInt64, {}, x.time.kind == Time::kFrames);
  *static_cast<int64_t*>(size) = count(x.dims);
}

}  // namespace gruengine
