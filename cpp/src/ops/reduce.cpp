// SPDX-License-Identifier: MIT
// Reductions: the reduced axes are brought to the end, so a sum has the same order wherever its
// elements lie.
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numeric>

#include "ops/copy.h"
#include "ops/pairs.h"

namespace gruengine {
namespace {

enum class Kind { kSum, kMean, kMax, kMin, kProd, kSumSquare, kL1, kL2 };

struct Reduction {
  Kind kind;
  int64_t rows, n;
  Dims out;
  Time time;
  // The input with the reduced axes last.
  Dims moved, strides;
  bool moves;
};

std::vector<int> reduced_axes(const NodeBuilder& b, size_t rank) {
  const Dims given = b.has(1) ? b.ints(1) : b.attr_ints("axes");
  if (!given.empty()) return normal_axes(b, given, rank);
  std::vector<int> all(rank);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

bool no_axes(const NodeBuilder& b) {
  const bool none = b.has(1) ? count(b.in(1).dims) == 0 : b.attr_ints("axes").empty();
  return none && b.attr("noop_with_empty_axes", int64_t{0}) != 0;
}

Reduction reduction(const NodeBuilder& b, Kind kind) {
  const Value& x = b.in(0);
  const size_t rank = x.dims.size();
  std::vector<int> axes = reduced_axes(b, rank);
  if (no_axes(b)) axes.clear();
  const bool keeps = b.attr("keepdims", int64_t{1}) != 0;
  const Dims own = row_major(x.dims);
  Reduction r{kind, 1, 1, {}, x.time, {}, {}, false};
  Dims reduced, reduced_strides;
  for (size_t i = 0; i < rank; ++i) {
    const int axis = static_cast<int>(i);
    if (std::find(axes.begin(), axes.end(), axis) == axes.end()) {
      if (x.time == frames(axis)) r.time = frames(static_cast<int>(r.out.size()));
      r.rows *= x.dims[i];
      r.out.push_back(x.dims[i]);
      r.moved.push_back(x.dims[i]);
      r.strides.push_back(own[i]);
      r.moves = r.moves || (r.n > 1 && x.dims[i] > 1);
    } else {
      if (x.time == frames(axis)) r.time = time_along(b, 0, axis, "reduces the time axis");
      r.n *= x.dims[i];
      reduced.push_back(x.dims[i]);
      reduced_strides.push_back(own[i]);
      if (keeps) r.out.push_back(1);
    }
  }
  r.moved.insert(r.moved.end(), reduced.begin(), reduced.end());
  r.strides.insert(r.strides.end(), reduced_strides.begin(), reduced_strides.end());
  const bool needs_one = kind == Kind::kMean || kind == Kind::kMax || kind == Kind::kMin;
  if (r.n == 0 && r.rows > 0 && needs_one) {
    b.refuse(ErrorCode::kInvalidArgument, "reduces no elements of shape " + to_string(x.dims));
  }
  return r;
}

// The input with the reduced axes last.
Slot plan_source(NodeBuilder& b, const Reduction& r) {
  const Value& x = b.in(0);
  if (!r.moves) return x.slot;
  const Slot to = b.scratch(r.rows * r.n * size_of(x.dtype));
  const StridedCopy copy(b, x.dtype, r.moved, r.strides, row_major(r.moved));
  b.emit([copy, to, from = x.slot](const Frame& f) { copy.run(f.at<char>(from), f.at<char>(to)); });
  return to;
}

Reduce kernel_of(Kind kind) {
  switch (kind) {
    case Kind::kMean:
      return Reduce::kMean;
    case Kind::kMax:
      return Reduce::kMax;
    case Kind::kMin:
      return Reduce::kMin;
    case Kind::kSumSquare:
    case Kind::kL2:
      return Reduce::kSumSquare;
    default:
      return Reduce::kSum;
  }
}

Slot plan_absolute(NodeBuilder& b, const Reduction& r, Slot from) {
  const int64_t n = r.rows * r.n;
  const Slot to = b.scratch(n * int64_t{sizeof(float)});
  b.emit([n, from, to, map = b.kernels().map](const Frame& f) {
    map({Function::kAbs, 0, 0}, f.at<float>(from), f.at<float>(to), n);
  });
  return to;
}

void emit_float_product(NodeBuilder& b, const Reduction& r, Slot from, Slot to) {
  b.emit([rows = r.rows, n = r.n, from, to](const Frame& f) {
    const float* x = f.at<float>(from);
    for (int64_t i = 0; i < rows; ++i) {
      double value = 1;
      for (int64_t j = 0; j < n; ++j) value *= x[i * n + j];
      f.at<float>(to)[i] = static_cast<float>(value);
    }
  });
}

void plan_floats(NodeBuilder& b, const Reduction& r, Slot from) {
  if (r.kind == Kind::kL1) from = plan_absolute(b, r, from);
  const Slot to = b.output(0, DType::kFloat32, r.out, r.time);
  if (r.rows == 0) return;
  if (r.kind == Kind::kProd) return emit_float_product(b, r, from, to);
  if (r.n == 0) {
    b.emit([rows = r.rows, to](const Frame& f) { std::fill_n(f.at<float>(to), rows, 0.0f); });
    return;
  }
  b.emit([kind = kernel_of(r.kind), rows = r.rows, n = r.n, from, to, root = r.kind == Kind::kL2,
          map = b.kernels().map, reduce = b.kernels().reduce](const Frame& f) {
    auto* y = f.at<float>(to);
    reduce(kind, f.at<float>(from), rows, n, n, y);
    if (root) map({Function::kSqrt, 0, 0}, y, y, rows);
  });
}

// Integers wrap around, as NumPy's do; their mean is truncated.
template <class T>
T reduce_integers(Kind kind, const T* x, int64_t n) {
  using U = std::make_unsigned_t<T>;
  U total = kind == Kind::kProd ? 1 : 0;
  double sum = 0;
  T least = std::numeric_limits<T>::max();
  T most = std::numeric_limits<T>::min();
  for (int64_t i = 0; i < n; ++i) {
    const auto value = static_cast<U>(x[i]);
    least = std::min(least, x[i]);
    most = std::max(most, x[i]);
    sum += static_cast<double>(x[i]);
    if (kind == Kind::kProd) total *= value;
    if (kind == Kind::kSum) total += value;
    if (kind == Kind::kSumSquare) total += value * value;
    if (kind == Kind::kL1) total += x[i] < 0 ? U{0} - value : value;
  }
  if (kind == Kind::kMax) return most;
  if (kind == Kind::kMin) return least;
  if (kind == Kind::kMean) return static_cast<T>(sum / static_cast<double>(n));
  return static_cast<T>(total);
}

template <class T>
void plan_integers(NodeBuilder& b, const Reduction& r, Slot from) {
  if (r.kind == Kind::kL2) b.expect(0, DType::kFloat32);
  b.emit([kind = r.kind, rows = r.rows, n = r.n, from,
          to = b.output(0, b.in(0).dtype, r.out, r.time)](const Frame& f) {
    for (int64_t i = 0; i < rows; ++i) {
      f.at<T>(to)[i] = reduce_integers(kind, f.at<T>(from) + i * n, n);
    }
  });
}

void plan_reduction(NodeBuilder& b, Kind kind) {
  const bool square = kind == Kind::kSumSquare || kind == Kind::kL1 || kind == Kind::kL2;
  if (no_axes(b) && !square) return b.view(0, 0, b.in(0).dims, b.in(0).time);
  const Reduction r = reduction(b, kind);
  const DType dtype = b.in(0).dtype;
  if (dtype == DType::kBool) b.expect(0, DType::kFloat32);
  const Slot from = plan_source(b, r);
  if (dtype == DType::kInt64) return plan_integers<int64_t>(b, r, from);
  if (dtype == DType::kInt32) return plan_integers<int32_t>(b, r, from);
  plan_floats(b, r, from);
}

}  // namespace

void plan_reduce_sum(NodeBuilder& b) { plan_reduction(b, Kind::kSum); }
void plan_reduce_mean(NodeBuilder& b) { plan_reduction(b, Kind::kMean); }
void plan_reduce_max(NodeBuilder& b) { plan_reduction(b, Kind::kMax); }
void plan_reduce_min(NodeBuilder& b) { plan_reduction(b, Kind::kMin); }
void plan_reduce_prod(NodeBuilder& b) { plan_reduction(b, Kind::kProd); }
void plan_reduce_sum_square(NodeBuilder& b) { plan_reduction(b, Kind::kSumSquare); }
void plan_reduce_l1(NodeBuilder& b) { plan_reduction(b, Kind::kL1); }
void plan_reduce_l2(NodeBuilder& b) { plan_reduction(b, Kind::kL2); }

}  // namespace gruengine
