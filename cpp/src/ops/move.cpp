// SPDX-License-Identifier: MIT
// Operators that move elements: permuted, joined, cut and looked up.
#include <algorithm>
#include <cstring>

#include "ops/copy.h"
#include "ops/embedding.h"

namespace gruengine {
namespace {

std::vector<size_t> permutation(const NodeBuilder& b, size_t rank) {
  std::vector<size_t> perm;
  for (const int64_t axis : b.attr_ints("perm")) {
    if (axis >= 0 && axis < static_cast<int64_t>(rank)) perm.push_back(static_cast<size_t>(axis));
  }
  if (!b.has_attr("perm")) {
    for (size_t i = rank; i-- > 0;) perm.push_back(i);
  }
  std::vector<size_t> sorted = perm;
  std::sort(sorted.begin(), sorted.end());
  const bool repeats = std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end();
  if (perm.size() != rank || b.attr_ints("perm").size() > rank || repeats) {
    b.refuse(ErrorCode::kInvalidArgument, "perm is " + to_string(b.attr_ints("perm")) +
                                              "; it must name each of " + std::to_string(rank) +
                                              " axes once");
  }
  return perm;
}

// The time of a value of which `axis` is cut: kLatest when what is left is the last frame.
Time cut_time(const NodeBuilder& b, int axis, bool is_last, const char* what) {
  const Time time = b.in(0).time;
  if (time.kind != Time::kFrames || time.axis != axis) return time;
  if (is_last) return {Time::kLatest, -1};
  return time_along(b, 0, axis, what);
}

// One axis of a Slice.
struct Cut {
  int64_t start = 0;
  int64_t step = 1;
  int64_t size = 0;
  bool last = false;  // the last element, said so that it holds for every size
};

Cut cut(const NodeBuilder& b, int64_t start, int64_t end, int64_t step, int64_t size) {
  if (step == 0) b.refuse(ErrorCode::kInvalidArgument, "a step is 0");
  const bool last = start == -1;
  start += start < 0 ? size : 0;
  end += end < 0 ? size : 0;
  step = std::clamp(step, -size - 1, size + 1);
  Cut result;
  if (step > 0) {
    start = std::clamp<int64_t>(start, 0, size);
    end = std::clamp<int64_t>(end, 0, size);
    result = {start, step, end > start ? (end - start - 1) / step + 1 : 0, false};
  } else if (size > 0) {
    start = std::clamp<int64_t>(start, 0, size - 1);
    end = std::clamp<int64_t>(end, -1, size - 1);
    result = {start, step, start > end ? (start - end - 1) / -step + 1 : 0, false};
  }
  result.last = last && result.size == 1;
  return result;
}

std::vector<Cut> cuts(const NodeBuilder& b) {
  const Dims& dims = b.in(0).dims;
  const std::vector<int64_t> starts = b.ints(1);
  const std::vector<int64_t> ends = b.ints(2);
  std::vector<int64_t> axes(starts.size());
  for (size_t i = 0; i < axes.size(); ++i) axes[i] = static_cast<int64_t>(i);
  if (b.has(3)) axes = b.ints(3);
  const std::vector<int64_t> steps = b.has(4) ? b.ints(4) : Dims(starts.size(), 1);
  if (ends.size() != starts.size() || axes.size() != starts.size() ||
      steps.size() != starts.size()) {
    b.refuse(ErrorCode::kInvalidArgument,
             "starts " + to_string(starts) + ", ends " + to_string(ends) + ", axes " +
                 to_string(axes) + " and steps " + to_string(steps) + "; they must be as many");
  }
  normal_axes(b, axes, dims.size());
  std::vector<Cut> result;
  for (const int64_t size : dims) result.push_back({0, 1, size, false});
  for (size_t i = 0; i < axes.size(); ++i) {
    const auto axis = static_cast<size_t>(b.axis(axes[i], dims.size()));
    result[axis] = cut(b, starts[i], ends[i], steps[i], dims[axis]);
  }
  return result;
}

Dims part_sizes(const NodeBuilder& b, int64_t total) {
  Dims sizes;
  const auto parts = static_cast<int64_t>(b.outputs());
  if (b.has(1)) {
    sizes = b.ints(1);
  } else {
    if (const int64_t asked = b.attr("num_outputs", parts); asked != parts) {
      b.refuse(ErrorCode::kInvalidFile, "num_outputs is " + std::to_string(asked) + " for " +
                                            std::to_string(parts) + " outputs");
    }
    const int64_t each = (total + parts - 1) / parts;
    for (int64_t i = 0; i < parts; ++i) {
      sizes.push_back(std::clamp<int64_t>(total - i * each, 0, each));
    }
  }
  const bool negative = std::any_of(sizes.begin(), sizes.end(), [](auto s) { return s < 0; });
  int64_t sum = 0;
  for (const int64_t size : sizes) {
    if (__builtin_add_overflow(sum, size, &sum)) sum = -1;
  }
  if (negative || sum != total || sizes.size() != b.outputs()) {
    b.refuse(ErrorCode::kInvalidArgument, "splits " + std::to_string(total) + " into " +
                                              to_string(sizes) + " for " + std::to_string(parts) +
                                              " outputs");
  }
  return sizes;
}

int64_t checked_index(int64_t index, int64_t size, int64_t place, const std::string& who) {
  if (index < -size || index >= size) {
    throw Error(ErrorCode::kInvalidArgument, who + ": index " + std::to_string(index) + " at " +
                                                 std::to_string(place) + "; the table has " +
                                                 std::to_string(size) + " rows");
  }
  return index < 0 ? index + size : index;
}

// A Gather as blocks: y[o, i] = x[o, index[i]] with `bytes` to an element.
struct Lookup {
  Slot x, y, indices, rows;
  int64_t outer, size, n, bytes;
  DType dtype;       // of the indices
  StoredRows table;  // instead of x
};

template <class T>
void copy_blocks(const Lookup& l, const Frame& f, const int64_t* rows) {
  for (int64_t o = 0; o < l.outer; ++o) {
    const T* from = f.at<T>(l.x) + o * l.size;
    T* to = f.at<T>(l.y) + o * l.n;
    for (int64_t i = 0; i < l.n; ++i) to[i] = from[rows[i]];
  }
}

void look_up(const Lookup& l, const Frame& f, const std::string& who) {
  auto* rows = f.at<int64_t>(l.rows);
  for (int64_t i = 0; i < l.n; ++i) {
    const int64_t index =
        l.dtype == DType::kInt64 ? f.at<int64_t>(l.indices)[i] : f.at<int32_t>(l.indices)[i];
    rows[i] = checked_index(index, l.size, i, who);
  }
  if (l.table.used()) return l.table.look_up(rows, l.n, f.at<float>(l.y));
  if (l.bytes == 4) return copy_blocks<int32_t>(l, f, rows);
  if (l.bytes == 8) return copy_blocks<int64_t>(l, f, rows);
  for (int64_t o = 0; o < l.outer; ++o) {
    const char* from = f.at<char>(l.x) + o * l.size * l.bytes;
    char* to = f.at<char>(l.y) + o * l.n * l.bytes;
    for (int64_t i = 0; i < l.n; ++i) {
      std::memcpy(to + i * l.bytes, from + rows[i] * l.bytes, static_cast<size_t>(l.bytes));
    }
  }
}

Time gather_time(const NodeBuilder& b, int axis, int index_rank) {
  const Value& indices = b.in(1);
  bool last = indices.constant != nullptr && count(indices.dims) == 1;
  if (last) last = b.ints(1)[0] == -1;
  Time data = cut_time(b, axis, last, "looks up frames along the time axis");
  if (data.kind == Time::kFrames && data.axis > axis) data.axis += index_rank - 1;
  Time index = indices.time;
  if (index.kind == Time::kFrames) index.axis += axis;
  check_data(b, {0, 1});
  return merge_times(b, data, index);
}

}  // namespace

void plan_transpose(NodeBuilder& b) {
  const Value x = b.in(0);
  const std::vector<size_t> perm = permutation(b, x.dims.size());
  const Dims strides = row_major(x.dims);
  Dims out, from;
  std::vector<size_t> moving;
  Time time = x.time;
  for (size_t i = 0; i < perm.size(); ++i) {
    out.push_back(x.dims[perm[i]]);
    from.push_back(strides[perm[i]]);
    if (out[i] != 1) moving.push_back(perm[i]);
    if (x.time == frames(static_cast<int>(perm[i]))) time.axis = static_cast<int>(i);
  }
  if (std::is_sorted(moving.begin(), moving.end())) return b.view(0, 0, out, time);
  const StridedCopy copy(b, x.dtype, out, from, row_major(out));
  b.emit([copy, slot = x.slot, y = b.output(0, x.dtype, out, time)](const Frame& f) {
    copy.run(f.at<char>(slot), f.at<char>(y));
  });
}

void plan_concat(NodeBuilder& b) {
  const Value first = b.in(0);
  const auto axis = static_cast<size_t>(b.axis(b.attr("axis", int64_t{0}), first.dims.size()));
  Dims out = first.dims;
  out[axis] = 0;
  Time time;
  std::vector<size_t> all;
  for (size_t i = 0; i < b.inputs(); ++i) {
    const Value& x = b.expect_rank(i, out.size());
    b.expect(i, first.dtype);
    Dims like = x.dims;
    like[axis] = out[axis];
    if (like != out) {
      b.refuse(ErrorCode::kInvalidArgument,
               "joins " + to_string(first.dims) + " and " + to_string(x.dims) + " along axis " +
                   std::to_string(axis) + "; the other sizes must be equal");
    }
    out[axis] += x.dims[axis];
    all.push_back(i);
    time = merge_times(
        b, time, time_along(b, i, static_cast<int>(axis), "concatenates along the time axis"));
  }
  check_data(b, all);
  if (all.size() == 1) return b.view(0, 0, out, time);
  struct Part {
    Slot from;
    StridedCopy copy;
    int64_t offset;
  };
  std::vector<Part> parts;
  const int64_t outer = product(out, 0, axis);
  const int64_t inner = product(out, axis + 1, out.size());
  const int64_t row = out[axis] * inner;
  int64_t offset = 0;
  count(out);
  for (const size_t i : all) {
    const int64_t chunk = b.in(i).dims[axis] * inner;
    parts.push_back({b.in(i).slot,
                     StridedCopy(b, first.dtype, {outer, chunk}, {chunk, 1}, {row, 1}),
                     offset * size_of(first.dtype)});
    offset += chunk;
  }
  b.emit([parts, y = b.output(0, first.dtype, out, time)](const Frame& f) {
    for (const Part& part : parts) {
      part.copy.run(f.at<char>(part.from), f.at<char>(y) + part.offset);
    }
  });
}

void plan_split(NodeBuilder& b) {
  const Value x = b.in(0);
  const int axis = b.axis(b.attr("axis", int64_t{0}), x.dims.size());
  const auto at = static_cast<size_t>(axis);
  const Dims sizes = part_sizes(b, x.dims[at]);
  if (sizes.size() == 1) return b.view(0, 0, x.dims, x.time);
  const Time time = time_along(b, 0, axis, "splits the time axis");
  const int64_t outer = product(x.dims, 0, at);
  const int64_t inner = product(x.dims, at + 1, x.dims.size());
  const int64_t row = x.dims[at] * inner;
  int64_t offset = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    Dims out = x.dims;
    out[at] = sizes[i];
    const int64_t chunk = sizes[i] * inner;
    if (b.wants(i)) {
      const StridedCopy copy(b, x.dtype, {outer, chunk}, {row, 1}, {chunk, 1});
      b.emit([copy, from = x.slot, bytes = offset * size_of(x.dtype),
              y = b.output(i, x.dtype, out, time)](const Frame& f) {
        copy.run(f.at<char>(from) + bytes, f.at<char>(y));
      });
    }
    offset += chunk;
  }
}

void plan_slice(NodeBuilder& b) {
  const Value x = b.in(0);
  const std::vector<Cut> parts = cuts(b);
  const Dims strides = row_major(x.dims);
  Dims out, from;
  int64_t offset = 0;
  Time time = x.time;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Cut& part = parts[i];
    out.push_back(part.size);
    from.push_back(strides[i] * part.step);
    offset += strides[i] * part.start;
    const bool whole = part.size == x.dims[i] && part.start == 0 && part.step == 1;
    if (!whole && time == frames(static_cast<int>(i))) {
      time = cut_time(b, static_cast<int>(i), part.last, "slices the time axis");
    }
  }
  if (out == x.dims && from == strides) return b.view(0, 0, out, time);
  const StridedCopy copy(b, x.dtype, out, from, row_major(out));
  b.emit([copy, slot = x.slot, bytes = offset * size_of(x.dtype),
          y = b.output(0, x.dtype, out, time)](const Frame& f) {
    copy.run(f.at<char>(slot) + bytes, f.at<char>(y));
  });
}

void plan_gather(NodeBuilder& b) {
  const Value x = b.in(0);
  const Value indices = b.in(1);
  if (indices.dtype != DType::kInt64) b.expect(1, DType::kInt32);
  const int axis = b.axis(b.attr("axis", int64_t{0}), x.dims.size());
  const auto at = static_cast<size_t>(axis);
  Dims out(x.dims.begin(), x.dims.begin() + axis);
  out.insert(out.end(), indices.dims.begin(), indices.dims.end());
  out.insert(out.end(), x.dims.begin() + axis + 1, x.dims.end());
  const int64_t n = count(indices.dims);
  if (indices.constant != nullptr) {
    const std::vector<int64_t> known = b.ints(1);
    for (int64_t i = 0; i < n; ++i) {
      checked_index(known[static_cast<size_t>(i)], x.dims[at], i, label(b));
    }
  }
  const Time time = gather_time(b, axis, static_cast<int>(indices.dims.size()));
  const int64_t inner = product(x.dims, at + 1, x.dims.size());
  const Lookup lookup{x.slot,
                      b.output(0, x.dtype, out, time),
                      indices.slot,
                      b.scratch(n * int64_t{sizeof(int64_t)}),
                      product(x.dims, 0, at),
                      x.dims[at],
                      n,
                      inner * size_of(x.dtype),
                      indices.dtype,
                      stored_rows(b, axis)};
  b.emit([lookup, who = label(b)](const Frame& f) { look_up(lookup, f, who); });
}

}  // namespace gruengine
