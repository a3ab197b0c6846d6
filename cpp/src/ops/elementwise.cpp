// SPDX-License-Identifier: MIT
// Arithmetic on broadcast inputs. Floats go to the kernels; integers wrap around, as NumPy's do.
#include <cmath>
#include <limits>
#include <type_traits>

#include "ops/pairs.h"

namespace gruengine {
namespace {

[[noreturn]] void divides_by_zero(const std::string& who) {
  throw Error(ErrorCode::kInvalidArgument,
              who + ": divides an integer by 0; every divisor must be another number");
}

template <class T>
T wrap(Binary op, T x, T y) {
  using U = std::make_unsigned_t<T>;
  const auto a = static_cast<U>(x);
  const auto b = static_cast<U>(y);
  switch (op) {
    case Binary::kAdd:
      return static_cast<T>(a + b);
    case Binary::kSub:
      return static_cast<T>(a - b);
    case Binary::kMul:
      return static_cast<T>(a * b);
    case Binary::kMin:
      return std::min(x, y);
    case Binary::kMax:
      return std::max(x, y);
    case Binary::kDiv:
      return y == -1 ? static_cast<T>(U{0} - a) : x / y;
  }
  return 0;
}

template <class T>
T remainder(T x, T y, bool truncated) {
  if (y == -1) return 0;
  const T rest = x % y;
  return !truncated && rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest;
}

void emit_floats(NodeBuilder& b, const Pair& pair, Binary op) {
  b.emit([pair, op, combine = b.kernels().combine](const Frame& f) {
    const auto [sa, sb, sy] = pair.loops.inner_stride();
    const int64_t n = pair.loops.inner();
    const float* x = f.at<float>(pair.a);
    const float* z = f.at<float>(pair.b);
    float* y = f.at<float>(pair.y);
    pair.loops.run([&](const Loops<3>::Offsets& at) {
      combine(op, x + at[0], sa, z + at[1], sb, y + at[2], n);
    });
  });
}

template <class T>
void emit_integers(NodeBuilder& b, const Pair& pair, Binary op) {
  emit_pairs<T, T, T>(b, pair, [op, who = label(b)](T x, T y) {
    if (op == Binary::kDiv && y == 0) divides_by_zero(who);
    return wrap(op, x, y);
  });
}

void emit_arithmetic(NodeBuilder& b, const Pair& pair, DType dtype, Binary op) {
  switch (dtype) {
    case DType::kFloat32:
      return emit_floats(b, pair, op);
    case DType::kInt64:
      return emit_integers<int64_t>(b, pair, op);
    case DType::kInt32:
      return emit_integers<int32_t>(b, pair, op);
    case DType::kBool:
      b.refuse(ErrorCode::kInvalidArgument, "inputs are bool; they must be numbers");
  }
}

void plan_arithmetic(NodeBuilder& b, Binary op) {
  same_types(b, 0, 1);
  const DType dtype = b.in(0).dtype;
  emit_arithmetic(b, declare_pair(b, dtype), dtype, op);
}

// Any number of inputs, from left to right.
Slot plan_many(NodeBuilder& b, Binary op) {
  std::vector<size_t> all;
  std::vector<Dims> shapes;
  for (size_t i = 0; i < b.inputs(); ++i) {
    same_types(b, 0, i);
    all.push_back(i);
    shapes.push_back(b.in(i).dims);
  }
  const DType dtype = b.in(0).dtype;
  const Dims out = broadcast_dims(b, shapes);
  check_data(b, all);
  const Slot y = b.output(0, dtype, out, b.broadcast_time(all, out.size()));
  const auto loops = [&](const Dims& a, const Dims& c) {
    return Loops<3>(b, out, {broadcast_strides(a, out), broadcast_strides(c, out), row_major(out)});
  };
  emit_arithmetic(b, {b.in(0).slot, b.in(1).slot, y, loops(shapes[0], shapes[1])}, dtype, op);
  for (size_t i = 2; i < all.size(); ++i) {
    emit_arithmetic(b, {y, b.in(i).slot, y, loops(out, shapes[i])}, dtype, op);
  }
  return y;
}

void plan_chain(NodeBuilder& b, Binary op) {
  if (b.inputs() == 1) return b.view(0, 0, b.in(0).dims, b.in(0).time);
  plan_many(b, op);
}

float float_power(float base, double exponent) {
  const double x = base;
  return static_cast<float>(exponent == 3.0 ? x * x * x : std::pow(x, exponent));
}

template <class T, class E>
T integer_power(T base, E exponent) {
  if (std::is_floating_point_v<E> || exponent < 0) {
    const double y = std::pow(static_cast<double>(base), static_cast<double>(exponent));
    const double limit = -static_cast<double>(std::numeric_limits<T>::min());
    return y >= -limit && y < limit ? static_cast<T>(y) : std::numeric_limits<T>::min();
  }
  T result = 1;
  T square = base;
  for (auto left = static_cast<uint64_t>(exponent); left != 0; left /= 2) {
    if (left % 2 != 0) result = wrap(Binary::kMul, result, square);
    square = wrap(Binary::kMul, square, square);
  }
  return result;
}

// A power that has a kernel: x, x * x or the root. False when the exponent is another.
bool plan_simple_power(NodeBuilder& b) {
  const Value& base = b.in(0);
  const Value& power = b.in(1);
  if (base.dtype != DType::kFloat32 || power.constant == nullptr || counts_frames(power) ||
      count(power.dims) != 1) {
    return false;
  }
  const double exponent = b.scalar(1);
  if (exponent != 1.0 && exponent != 2.0 && exponent != 0.5) return false;
  const Dims out = broadcast_dims(b, {base.dims, power.dims});
  const Time time = b.broadcast_time({0, 1}, out.size());
  if (exponent == 1.0) {
    b.view(0, 0, out, time);
    return true;
  }
  const FunctionSpec spec{exponent == 2.0 ? Function::kSquare : Function::kSqrt, 0, 0};
  b.emit([spec, n = count(out), x = base.slot, y = b.output(0, base.dtype, out, time),
          map = b.kernels().map](const Frame& f) { map(spec, f.at<float>(x), f.at<float>(y), n); });
  return true;
}

}  // namespace

void plan_add(NodeBuilder& b) { plan_arithmetic(b, Binary::kAdd); }
void plan_sub(NodeBuilder& b) { plan_arithmetic(b, Binary::kSub); }
void plan_mul(NodeBuilder& b) { plan_arithmetic(b, Binary::kMul); }
void plan_div(NodeBuilder& b) { plan_arithmetic(b, Binary::kDiv); }
void plan_min(NodeBuilder& b) { plan_chain(b, Binary::kMin); }
void plan_max(NodeBuilder& b) { plan_chain(b, Binary::kMax); }

void plan_sum(NodeBuilder& b) {
  b.expect(0, DType::kFloat32);
  plan_chain(b, Binary::kAdd);
}

void plan_mean(NodeBuilder& b) {
  b.expect(0, DType::kFloat32);
  if (b.inputs() == 1) return plan_chain(b, Binary::kAdd);
  const Slot y = plan_many(b, Binary::kAdd);
  std::vector<Dims> shapes;
  shapes.reserve(b.inputs());
  for (size_t i = 0; i < b.inputs(); ++i) shapes.push_back(b.in(i).dims);
  const int64_t n = count(broadcast_dims(b, shapes));
  b.emit([y, n, divisor = static_cast<float>(b.inputs()),
          combine = b.kernels().combine](const Frame& f) {
    combine(Binary::kDiv, f.at<float>(y), 1, &divisor, 0, f.at<float>(y), n);
  });
}

void plan_mod(NodeBuilder& b) {
  same_types(b, 0, 1);
  const bool truncated = b.attr("fmod", int64_t{0}) != 0;
  const DType dtype = b.in(0).dtype;
  if (dtype == DType::kBool || (dtype == DType::kFloat32 && !truncated)) {
    b.refuse(ErrorCode::kInvalidArgument, std::string("inputs are ") + name_of(dtype) +
                                              "; they must be integers, or float32 with fmod = 1");
  }
  const Pair pair = declare_pair(b, dtype);
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (std::is_same_v<T, float>) {
      emit_pairs<T, T, T>(b, pair, [](T x, T y) { return std::fmod(x, y); });
    } else if constexpr (!std::is_same_v<T, uint8_t>) {
      emit_pairs<T, T, T>(b, pair, [truncated, who = label(b)](T x, T y) {
        if (y == 0) divides_by_zero(who);
        return remainder(x, y, truncated);
      });
    }
  });
}

void plan_pow(NodeBuilder& b) {
  const DType dtype = b.in(0).dtype;
  const DType exponent = b.in(1).dtype;
  if (dtype == DType::kBool || exponent == DType::kBool) {
    b.refuse(ErrorCode::kInvalidArgument, "an input is bool; both must be numbers");
  }
  if (plan_simple_power(b)) return;
  const Pair pair = declare_pair(b, dtype);
  with_type(dtype, [&](auto base) {
    with_type(exponent, [&](auto power) {
      using T = decltype(base);
      using E = decltype(power);
      if constexpr (std::is_same_v<T, uint8_t> || std::is_same_v<E, uint8_t>) {
        return;
      } else if constexpr (std::is_same_v<T, float>) {
        emit_pairs<T, E, T>(b, pair, [](T x, E y) {
          return float_power(x, static_cast<double>(static_cast<float>(y)));
        });
      } else {
        emit_pairs<T, E, T>(b, pair, [](T x, E y) { return integer_power(x, y); });
      }
    });
  });
}

void plan_prelu(NodeBuilder& b) {
  b.expect(0, DType::kFloat32);
  b.expect(1, DType::kFloat32);
  if (broadcast_dims(b, {b.in(0).dims, b.in(1).dims}) != b.in(0).dims) {
    b.refuse(ErrorCode::kInvalidArgument, "slope of shape " + to_string(b.in(1).dims) +
                                              " does not broadcast to " + to_string(b.in(0).dims));
  }
  emit_pairs<float, float, float>(b, declare_pair(b, DType::kFloat32),
                                  [](float x, float slope) { return x < 0 ? slope * x : x; });
}

}  // namespace gruengine
