// SPDX-License-Identifier: MIT
// Operators that repeat, surround or make elements.
#include <algorithm>
#include <cmath>

#include "ops/copy.h"
#include "ops/pairs.h"

namespace gruengine {
namespace {

// The time of input 0 repeated to `out`, its axes counted from the right.
Time repeated_time(const NodeBuilder& b, const Dims& out) {
  const Value& x = b.in(0);
  const auto shift = static_cast<int>(out.size() - x.dims.size());
  Time time = x.time;
  if (time.kind == Time::kFrames) time.axis += shift;
  const Time marked = marked_time(b, out);
  if (marked.kind != Time::kFrames || marked == time) return time;
  const int own = marked.axis - shift;
  const bool repeats = own < 0 || x.dims[static_cast<size_t>(own)] == 1;
  if (!repeats) return time;
  if (time.kind != Time::kConstant) b.mixes_time("repeats data once for each frame");
  return marked;
}

// One axis of a Pad, after runs of axes without pads are seen as one.
struct PadAxis {
  int64_t size;
  int64_t stride;           // in the source
  std::vector<int64_t> at;  // for each result the index in the source, or -1
  int64_t before = 0;       // how many results lie before those that are copied in order
  int64_t copied = 0;       // and how many of those there are
};

int64_t padded_index(const std::string& mode, int64_t i, int64_t size) {
  if (i >= 0 && i < size) return i;
  if (mode == "constant") return -1;
  if (mode == "edge") return i < 0 ? 0 : size - 1;
  if (mode == "wrap") return (i % size + size) % size;
  return i < 0 ? -i : 2 * (size - 1) - i;
}

PadAxis pad_axis(const NodeBuilder& b, const std::string& mode, int64_t size, int64_t before,
                 int64_t after) {
  const int64_t first = std::max<int64_t>(-before, 0);
  const int64_t left = size - first - std::max<int64_t>(-after, 0);
  const int64_t grow = std::max<int64_t>(before, 0);
  const int64_t more = std::max<int64_t>(after, 0);
  const bool outside = mode == "reflect" && std::max(grow, more) >= left;
  if (left < 0 || ((grow > 0 || more > 0) && mode != "constant" && (left == 0 || outside))) {
    b.refuse(ErrorCode::kInvalidArgument, mode + " pads " + to_string({before, after}) +
                                              " do not fit an axis of size " +
                                              std::to_string(size));
  }
  PadAxis axis{size, 1, {}, grow, left};
  for (int64_t i = -grow; i < left + more; ++i) {
    const int64_t index = padded_index(mode, i, left);
    axis.at.push_back(index < 0 ? -1 : index + first);
  }
  return axis;
}

template <class T>
void pad_row(const PadAxis& axis, const T* from, T fill, T* to) {
  const auto n = static_cast<int64_t>(axis.at.size());
  const auto one = [&](int64_t i) {
    const int64_t index = axis.at[static_cast<size_t>(i)];
    to[i] = index < 0 || from == nullptr ? fill : from[index];
  };
  for (int64_t i = 0; i < axis.before; ++i) one(i);
  const int64_t end = axis.before + axis.copied;
  if (axis.copied > 0) {
    T* middle = to + axis.before;
    if (from == nullptr) {
      std::fill_n(middle, axis.copied, fill);
    } else {
      std::copy_n(from + axis.at[static_cast<size_t>(axis.before)], axis.copied, middle);
    }
  }
  for (int64_t i = end; i < n; ++i) one(i);
}

// Fills the axes from `level` on; from is nullptr where every element is the fill.
template <class T>
T* pad_axes(const std::vector<PadAxis>& axes, size_t level, const T* from, T fill, T* to) {
  const PadAxis& axis = axes[level];
  if (level + 1 == axes.size()) {
    pad_row(axis, from, fill, to);
    return to + axis.at.size();
  }
  for (const int64_t index : axis.at) {
    const bool outside = index < 0 || from == nullptr;
    to = pad_axes(axes, level + 1, outside ? nullptr : from + index * axis.stride, fill, to);
  }
  return to;
}

struct Pads {
  Dims before, after;
};

Pads pads_of(const NodeBuilder& b, size_t rank) {
  const std::vector<int64_t> given = b.ints(1);
  std::vector<int64_t> axes;
  if (b.has(3)) {
    axes = b.ints(3);
    normal_axes(b, axes, rank);
  } else {
    for (size_t i = 0; i < rank; ++i) axes.push_back(static_cast<int64_t>(i));
  }
  constexpr int64_t kMost = 16'777'216;
  const bool huge = std::any_of(given.begin(), given.end(),
                                [](int64_t pad) { return pad > kMost || pad < -kMost; });
  if (given.size() != 2 * axes.size() || huge) {
    b.refuse(ErrorCode::kInvalidArgument,
             "pads " + to_string(given) + " for " + std::to_string(axes.size()) +
                 " axes; each needs one before and one after, of at most " + std::to_string(kMost));
  }
  Pads pads{Dims(rank, 0), Dims(rank, 0)};
  for (size_t i = 0; i < axes.size(); ++i) {
    const auto axis = static_cast<size_t>(b.axis(axes[i], rank));
    pads.before[axis] = given[i];
    pads.after[axis] = given[axes.size() + i];
  }
  return pads;
}

// The axes of a Pad, those without pads merged with the one before them when that has none too.
std::vector<PadAxis> pad_axes_of(const NodeBuilder& b, const Dims& dims, const Pads& pads) {
  const std::string mode = b.attr("mode", "constant");
  if (mode != "constant" && mode != "reflect" && mode != "edge" && mode != "wrap") {
    b.refuse(ErrorCode::kInvalidArgument,
             "mode is '" + mode + "'; it must be constant, reflect, edge or wrap");
  }
  Dims sizes, before, after;
  bool plain_before = false;
  for (size_t i = 0; i < dims.size(); ++i) {
    const bool plain = pads.before[i] == 0 && pads.after[i] == 0;
    if (plain && plain_before) {
      sizes.back() *= dims[i];
    } else {
      sizes.push_back(dims[i]);
      before.push_back(pads.before[i]);
      after.push_back(pads.after[i]);
    }
    plain_before = plain;
  }
  const Dims strides = row_major(sizes);
  std::vector<PadAxis> axes;
  for (size_t i = 0; i < sizes.size(); ++i) {
    axes.push_back(pad_axis(b, mode, sizes[i], before[i], after[i]));
    axes.back().stride = strides[i];
  }
  return axes;
}

template <class T>
void emit_pad(NodeBuilder& b, std::vector<PadAxis> axes, DType dtype, const Dims& out, Time time) {
  const bool filled = b.has(2);
  const Slot from = b.in(0).slot;
  const Slot value = filled ? b.in(2).slot : from;
  const bool empty = count(out) == 0;
  b.emit([=, axes = std::move(axes), y = b.output(0, dtype, out, time)](const Frame& f) {
    if (empty) return;
    pad_axes<T>(axes, 0, f.at<T>(from), filled ? *f.at<T>(value) : T{0}, f.at<T>(y));
  });
}

// How many of start, start + step, ... lie before limit.
double steps_between(int64_t start, int64_t limit, int64_t step) {
  if (step == 0 || start == limit || (start < limit) != (step > 0)) return 0;
  const auto distance = [](int64_t from, int64_t to) {
    return static_cast<uint64_t>(to) - static_cast<uint64_t>(from);
  };
  const uint64_t span = step > 0 ? distance(start, limit) : distance(limit, start);
  const uint64_t size = step > 0 ? distance(0, step) : distance(step, 0);
  const uint64_t count = (span - 1) / size + 1;
  return static_cast<double>(count);
}

int64_t range_count(const NodeBuilder& b, DType dtype) {
  const double size = dtype == DType::kFloat32
                          ? std::ceil((b.scalar(1) - b.scalar(0)) / b.scalar(2))
                          : steps_between(b.ints(0)[0], b.ints(1)[0], b.ints(2)[0]);
  if (b.scalar(2) == 0 || !(size < 1e12)) {
    b.refuse(ErrorCode::kInvalidArgument,
             "from " + std::to_string(b.scalar(0)) + " to " + std::to_string(b.scalar(1)) + " by " +
                 std::to_string(b.scalar(2)) + "; the step must be finite and not 0");
  }
  return size > 0 ? static_cast<int64_t>(size) : 0;
}

template <class T>
void emit_fill(NodeBuilder& b, DType dtype, const Dims& dims, T value) {
  b.emit([value, n = count(dims), y = b.output(0, dtype, dims, marked_time(b, dims))](
             const Frame& f) { std::fill_n(f.at<T>(y), n, value); });
}

}  // namespace

void plan_expand(NodeBuilder& b) {
  const Value x = b.in(0);
  const Dims asked = b.ints(1);
  count(asked);
  const Dims out = broadcast_dims(b, {x.dims, asked});
  const Time time = repeated_time(b, out);
  if (count(out) == count(x.dims)) return b.view(0, 0, out, time);
  const StridedCopy copy(b, x.dtype, out, broadcast_strides(x.dims, out), row_major(out));
  b.emit([copy, from = x.slot, y = b.output(0, x.dtype, out, time)](const Frame& f) {
    copy.run(f.at<char>(from), f.at<char>(y));
  });
}

void plan_tile(NodeBuilder& b) {
  const Value x = b.in(0);
  const std::vector<int64_t> repeats = b.ints(1);
  if (repeats.size() != x.dims.size()) {
    b.refuse(ErrorCode::kInvalidArgument, "repeats are " + to_string(repeats) + " for shape " +
                                              to_string(x.dims) + "; each axis needs one");
  }
  const Dims strides = row_major(x.dims);
  Dims out, loops, from;
  for (size_t i = 0; i < repeats.size(); ++i) {
    out.push_back(count({repeats[i], x.dims[i]}));
    loops.insert(loops.end(), {repeats[i], x.dims[i]});
    from.insert(from.end(), {0, strides[i]});
    if (repeats[i] != 1 && x.dims[i] != 1) {
      time_along(b, 0, static_cast<int>(i), "repeats the time axis");
    }
  }
  count(out);
  const Time time = repeated_time(b, out);
  if (out == x.dims) return b.view(0, 0, out, time);
  const StridedCopy copy(b, x.dtype, loops, from, row_major(loops));
  b.emit([copy, slot = x.slot, y = b.output(0, x.dtype, out, time)](const Frame& f) {
    copy.run(f.at<char>(slot), f.at<char>(y));
  });
}

void plan_pad(NodeBuilder& b) {
  const Value x = b.in(0);
  const Pads pads = pads_of(b, x.dims.size());
  Dims out;
  Time time = x.time;
  bool whole = true;
  for (size_t i = 0; i < x.dims.size(); ++i) {
    out.push_back(x.dims[i] + pads.before[i] + pads.after[i]);
    if (pads.before[i] == 0 && pads.after[i] == 0) continue;
    whole = false;
    time = time_along(b, 0, static_cast<int>(i), "pads the time axis");
  }
  if (b.has(2)) {
    b.expect(2, x.dtype);
    if (count(b.in(2).dims) != 1) {
      b.refuse(ErrorCode::kInvalidArgument,
               "fills with shape " + to_string(b.in(2).dims) + "; it must be one number");
    }
    check_data(b, {0, 2});
    time = merge_times(b, time, b.in(2).time);
  }
  count(out);
  if (whole) return b.view(0, 0, out, time);
  std::vector<PadAxis> axes = pad_axes_of(b, x.dims, pads);
  if (x.dtype == DType::kBool) return emit_pad<uint8_t>(b, std::move(axes), x.dtype, out, time);
  if (x.dtype == DType::kInt64) return emit_pad<int64_t>(b, std::move(axes), x.dtype, out, time);
  if (x.dtype == DType::kInt32) return emit_pad<int32_t>(b, std::move(axes), x.dtype, out, time);
  emit_pad<float>(b, std::move(axes), x.dtype, out, time);
}

void plan_range(NodeBuilder& b) {
  same_types(b, 0, 1);
  same_types(b, 0, 2);
  const DType dtype = b.in(0).dtype;
  for (const size_t i : {size_t{0}, size_t{1}, size_t{2}}) b.scalar(i);
  const int64_t n = range_count(b, dtype);
  const Slot y = b.output(0, dtype, {n});
  if (dtype == DType::kFloat32) {
    b.emit([y, n, start = b.scalar(0), step = b.scalar(2)](const Frame& f) {
      for (int64_t i = 0; i < n; ++i) {
        f.at<float>(y)[i] = static_cast<float>(start + static_cast<double>(i) * step);
      }
    });
    return;
  }
  b.emit([y, n, dtype, start = b.ints(0)[0], step = b.ints(2)[0]](const Frame& f) {
    for (int64_t i = 0; i < n; ++i) {
      const int64_t value = start + i * step;
      if (dtype == DType::kInt64) {
        f.at<int64_t>(y)[i] = value;
      } else {
        f.at<int32_t>(y)[i] = static_cast<int32_t>(value);
      }
    }
  });
}

void plan_constant_of_shape(NodeBuilder& b) {
  const Dims dims = b.ints(0);
  count(dims);
  const auto found = b.node().attributes.find("value");
  if (found == b.node().attributes.end()) return emit_fill(b, DType::kFloat32, dims, 0.0f);
  if (const auto* whole = std::get_if<int64_t>(&found->second)) {
    return emit_fill(b, DType::kInt64, dims, *whole);
  }
  if (const auto* list = std::get_if<std::vector<int64_t>>(&found->second)) {
    if (list->size() == 1) return emit_fill(b, DType::kInt64, dims, (*list)[0]);
  }
  const std::vector<double> list = std::holds_alternative<std::vector<double>>(found->second)
                                       ? b.attr_floats("value")
                                       : std::vector<double>{b.attr("value", 0.0)};
  if (list.size() != 1) b.refuse(ErrorCode::kInvalidFile, "value must be one number");
  emit_fill(b, DType::kFloat32, dims, static_cast<float>(list[0]));
}

void plan_constant(NodeBuilder& b) {
  std::vector<int64_t> whole = b.attr_ints("value_ints");
  std::vector<double> real = b.attr_floats("value_floats");
  const bool one = b.has_attr("value_int") || b.has_attr("value_float");
  if (b.has_attr("value_int")) whole = {b.attr("value_int", int64_t{0})};
  if (b.has_attr("value_float")) real = {number(b, "value_float", 0)};
  if (b.node().attributes.size() != 1 || b.has_attr("value")) {
    b.refuse(ErrorCode::kInvalidFile,
             "needs one of value_int, value_ints, value_float and value_floats");
  }
  const bool is_whole = b.has_attr("value_int") || b.has_attr("value_ints");
  const auto n = static_cast<int64_t>(is_whole ? whole.size() : real.size());
  const Dims dims = one ? Dims{} : Dims{n};
  if (is_whole) {
    std::copy(whole.begin(), whole.end(),
              static_cast<int64_t*>(b.constant_output(0, DType::kInt64, dims)));
  } else {
    std::transform(real.begin(), real.end(),
                   static_cast<float*>(b.constant_output(0, DType::kFloat32, dims)),
                   [](double value) { return static_cast<float>(value); });
  }
}

}  // namespace gruengine
