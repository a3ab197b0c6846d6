// SPDX-License-Identifier: MIT
// Operators that order or add up the elements along one axis.
#include <algorithm>
#include <limits>
#include <type_traits>

#include "ops/loops.h"

namespace gruengine {
namespace {

// A value as outer x n x inner, with the axis in the middle.
struct Along {
  int axis;
  int64_t outer, n, inner;
};

Along along(const NodeBuilder& b, int64_t axis) {
  const Dims& dims = b.in(0).dims;
  const int at = b.axis(axis, dims.size());
  const auto i = static_cast<size_t>(at);
  return {at, product(dims, 0, i), dims[i], product(dims, i + 1, dims.size())};
}

// NaN counts as greater than every number, as NumPy has it.
template <class T>
bool greater(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return a > b || (a != a && b == b);
  return a > b;
}

template <class T>
bool less(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return a < b || (a != a && b == b);
  return a < b;
}

// Calls body with a zero of the element type of input 0.
template <class Body>
void with_type(const NodeBuilder& b, const Body& body) {
  switch (b.in(0).dtype) {
    case DType::kInt64:
      return body(int64_t{0});
    case DType::kInt32:
      return body(int32_t{0});
    default:
      b.expect(0, DType::kFloat32);
      return body(0.0f);
  }
}

// Integers wrap around, as NumPy's do.
template <class T>
T add(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
  } else {
    return a + b;
  }
}

template <class T>
void sum_up(const Along& a, bool exclusive, bool reverse, const T* x, T* y) {
  for (int64_t o = 0; o < a.outer; ++o) {
    for (int64_t i = 0; i < a.inner; ++i) {
      T sum = 0;
      for (int64_t j = 0; j < a.n; ++j) {
        const int64_t at = (o * a.n + (reverse ? a.n - 1 - j : j)) * a.inner + i;
        const T next = add(sum, x[at]);
        y[at] = exclusive ? sum : next;
        sum = next;
      }
    }
  }
}

template <class T>
int64_t extreme(const T* x, int64_t n, int64_t stride, bool most, bool last) {
  int64_t best = 0;
  for (int64_t j = 1; j < n; ++j) {
    const T value = x[j * stride];
    const T held = x[best * stride];
    const bool better = most ? greater(value, held) : less(value, held);
    const bool worse = most ? greater(held, value) : less(held, value);
    if (better || (last && !worse)) best = j;
  }
  return best;
}

void plan_extreme(NodeBuilder& b, bool most) {
  const Along a = along(b, b.attr("axis", int64_t{0}));
  const Time time = time_along(b, 0, a.axis, "looks for an extreme along the time axis");
  if (a.n == 0) b.refuse(ErrorCode::kInvalidArgument, "looks for an extreme of no elements");
  Dims out = b.in(0).dims;
  const bool keeps = b.attr("keepdims", int64_t{1}) != 0;
  out[static_cast<size_t>(a.axis)] = 1;
  Time kept = time;
  if (!keeps) {
    out.erase(out.begin() + a.axis);
    if (kept.kind == Time::kFrames && kept.axis > a.axis) --kept.axis;
  }
  check_data(b, {0});
  const bool last = b.attr("select_last_index", int64_t{0}) != 0;
  const Slot x = b.in(0).slot;
  const Slot y = b.output(0, DType::kInt64, out, kept);
  with_type(b, [&](auto zero) {
    using T = decltype(zero);
    b.emit([=](const Frame& f) {
      for (int64_t o = 0; o < a.outer; ++o) {
        for (int64_t i = 0; i < a.inner; ++i) {
          f.at<int64_t>(y)[o * a.inner + i] =
              extreme(f.at<T>(x) + o * a.n * a.inner + i, a.n, a.inner, most, last);
        }
      }
    });
  });
}

// The k first of an order, equals by their places; values and places have k * inner to a row.
template <class T>
void take_first(const Along& a, int64_t k, bool most, const T* x, int64_t* order, T* values,
                int64_t* places) {
  for (int64_t o = 0; o < a.outer; ++o) {
    for (int64_t i = 0; i < a.inner; ++i) {
      const T* from = x + o * a.n * a.inner + i;
      for (int64_t j = 0; j < a.n; ++j) order[j] = j;
      std::partial_sort(order, order + k, order + a.n, [&](int64_t p, int64_t q) {
        const T one = from[p * a.inner];
        const T other = from[q * a.inner];
        if (most ? greater(one, other) : less(one, other)) return true;
        if (most ? greater(other, one) : less(other, one)) return false;
        return p < q;
      });
      for (int64_t j = 0; j < k; ++j) {
        const int64_t to = (o * k + j) * a.inner + i;
        values[to] = from[order[j] * a.inner];
        places[to] = order[j];
      }
    }
  }
}

}  // namespace

void plan_cum_sum(NodeBuilder& b) {
  const std::vector<int64_t> axis = b.ints(1);
  if (axis.size() != 1) {
    b.refuse(ErrorCode::kInvalidArgument, "axis is " + to_string(axis) + "; it must be one number");
  }
  const Along a = along(b, axis[0]);
  time_along(b, 0, a.axis, "adds up along the time axis");
  check_data(b, {0});
  const bool exclusive = b.attr("exclusive", int64_t{0}) != 0;
  const bool reverse = b.attr("reverse", int64_t{0}) != 0;
  const Slot x = b.in(0).slot;
  const Slot y = b.output(0, b.in(0).dtype, b.in(0).dims, b.in(0).time);
  with_type(b, [&](auto zero) {
    using T = decltype(zero);
    b.emit([=](const Frame& f) { sum_up(a, exclusive, reverse, f.at<T>(x), f.at<T>(y)); });
  });
}

void plan_arg_max(NodeBuilder& b) { plan_extreme(b, true); }
void plan_arg_min(NodeBuilder& b) { plan_extreme(b, false); }

void plan_top_k(NodeBuilder& b) {
  const Along a = along(b, b.attr("axis", int64_t{-1}));
  const std::vector<int64_t> given = b.ints(1);
  if (given.size() != 1 || given[0] < 0 || given[0] > a.n) {
    b.refuse(
        ErrorCode::kInvalidArgument,
        "k is " + to_string(given) + "; it must be one number from 0 to " + std::to_string(a.n));
  }
  const int64_t k = given[0];
  const Time time = time_along(b, 0, a.axis, "orders the time axis");
  check_data(b, {0});
  Dims out = b.in(0).dims;
  out[static_cast<size_t>(a.axis)] = k;
  const bool most = b.attr("largest", int64_t{1}) != 0;
  const Slot x = b.in(0).slot;
  const Slot order = b.scratch(a.n * int64_t{sizeof(int64_t)});
  const Slot values = b.output(0, b.in(0).dtype, out, time);
  const Slot places = b.output(1, DType::kInt64, out, time);
  with_type(b, [&](auto zero) {
    using T = decltype(zero);
    b.emit([=](const Frame& f) {
      take_first(a, k, most, f.at<T>(x), f.at<int64_t>(order), f.at<T>(values),
                 f.at<int64_t>(places));
    });
  });
}

}  // namespace gruengine
