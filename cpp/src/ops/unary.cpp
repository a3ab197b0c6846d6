// SPDX-License-Identifier: MIT
// Functions of one argument.
#include <cmath>
#include <limits>

#include "ops/pairs.h"

namespace gruengine {
namespace {

// ONNX's defaults of alpha and beta as operators.
FunctionSpec defaults(Function kind) {
  switch (kind) {
    case Function::kLeakyRelu:
      return {kind, 0.01f, 0};
    case Function::kHardSigmoid:
      return {kind, 0.2f, 0.5f};
    case Function::kScaledTanh:
      return {kind, 1, 1};
    default:
      return {kind, 1, 0};
  }
}

// Declares a result like input 0 and emits y[i] = f(x[i]).
template <class X, class Y, class F>
void emit_each(NodeBuilder& b, DType result, F f) {
  const Value& x = b.in(0);
  const int64_t n = count(x.dims);
  b.emit([f, n, from = x.slot, to = b.output(0, result, x.dims, x.time)](const Frame& frame) {
    const X* in = frame.at<X>(from);
    Y* out = frame.at<Y>(to);
    for (int64_t i = 0; i < n; ++i) out[i] = f(in[i]);
  });
}

template <class T>
void plan_integer(NodeBuilder& b, Function kind) {
  using U = std::make_unsigned_t<T>;
  const auto wrapped = [](auto x) { return static_cast<T>(x); };
  const DType dtype = b.in(0).dtype;
  switch (kind) {
    case Function::kNeg:
      return emit_each<T, T>(b, dtype, [=](T x) { return wrapped(U{0} - static_cast<U>(x)); });
    case Function::kAbs:
      return emit_each<T, T>(b, dtype,
                             [=](T x) { return x < 0 ? wrapped(U{0} - static_cast<U>(x)) : x; });
    case Function::kRelu:
      return emit_each<T, T>(b, dtype, [](T x) { return x < 0 ? T{0} : x; });
    case Function::kSquare:
      return emit_each<T, T>(b, dtype,
                             [=](T x) { return wrapped(static_cast<U>(x) * static_cast<U>(x)); });
    default:
      b.expect(0, DType::kFloat32);
  }
}

void plan_function(NodeBuilder& b, Function kind) {
  const Value& x = b.in(0);
  if (x.dtype == DType::kInt64) return plan_integer<int64_t>(b, kind);
  if (x.dtype == DType::kInt32) return plan_integer<int32_t>(b, kind);
  b.expect(0, DType::kFloat32);
  FunctionSpec spec = defaults(kind);
  spec.alpha = static_cast<float>(number(b, "alpha", spec.alpha));
  spec.beta = static_cast<float>(number(b, "beta", spec.beta));
  b.emit([spec, n = count(x.dims), from = x.slot, to = b.output(0, x.dtype, x.dims, x.time),
          map = b.kernels().map](const Frame& f) {
    map(spec, f.at<float>(from), f.at<float>(to), n);
  });
}

// A function without a kernel: computed in double, so within half an ulp of libm.
template <class F>
void plan_scalar(NodeBuilder& b, F f) {
  b.expect(0, DType::kFloat32);
  emit_each<float, float>(b, DType::kFloat32,
                          [f](float x) { return static_cast<float>(f(static_cast<double>(x))); });
}

template <class T>
T sign(T x) {
  return x > 0 ? T{1} : x < 0 ? T{-1} : x;
}

// Toward zero; what does not fit becomes the smallest integer, as x86 converts it.
template <class To, class From>
To convert(From x) {
  if constexpr (std::is_same_v<To, uint8_t>) {
    return static_cast<To>(x != 0);
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    constexpr auto kLimit = -static_cast<double>(std::numeric_limits<To>::min());
    const auto value = static_cast<double>(x);
    return value >= -kLimit && value < kLimit ? static_cast<To>(value)
                                              : std::numeric_limits<To>::min();
  } else {
    return static_cast<To>(x);
  }
}

DType cast_target(const NodeBuilder& b) {
  const auto found = b.node().attributes.find("to");
  if (found == b.node().attributes.end())
    b.refuse(ErrorCode::kInvalidFile, "has no attribute 'to'");
  if (const auto* name = std::get_if<std::string>(&found->second)) {
    for (const DType dtype : {DType::kFloat32, DType::kInt64, DType::kInt32, DType::kBool}) {
      if (*name == name_of(dtype)) return dtype;
    }
    b.refuse(ErrorCode::kUnsupported,
             "casts to '" + *name + "'; it may be float32, int64, int32 or bool");
  }
  switch (const int64_t to = b.attr("to", int64_t{0}); to) {
    case 1:
      return DType::kFloat32;
    case 6:
      return DType::kInt32;
    case 7:
      return DType::kInt64;
    case 9:
      return DType::kBool;
    default:
      b.refuse(ErrorCode::kUnsupported,
               "casts to ONNX type " + std::to_string(to) +
                   "; it may be 1 (float32), 6 (int32), 7 (int64) or 9 (bool)");
  }
}

template <class T>
void emit_clip(NodeBuilder& b, DType dtype) {
  const Value& x = b.in(0);
  const int64_t n = count(x.dims);
  const bool low = b.has(1);
  const bool high = b.has(2);
  const Slot from = x.slot;
  const Slot least = low ? b.in(1).slot : from;
  const Slot most = high ? b.in(2).slot : from;
  b.emit([=, to = b.output(0, dtype, x.dims, x.time)](const Frame& f) {
    const T* in = f.at<T>(from);
    T* out = f.at<T>(to);
    const T first = low ? *f.at<T>(least) : std::numeric_limits<T>::lowest();
    const T last = high ? *f.at<T>(most) : std::numeric_limits<T>::max();
    for (int64_t i = 0; i < n; ++i) out[i] = std::min(std::max(in[i], first), last);
  });
}

void emit_float_clip(NodeBuilder& b) {
  const Value& x = b.in(0);
  const int64_t n = count(x.dims);
  const Slot from = x.slot;
  const Slot to = b.output(0, x.dtype, x.dims, x.time);
  const auto combine = b.kernels().combine;
  Slot now = from;
  for (const size_t i : {size_t{1}, size_t{2}}) {
    if (!b.has(i)) continue;
    const Binary op = i == 1 ? Binary::kMax : Binary::kMin;
    b.emit([=, bound = b.in(i).slot](const Frame& f) {
      combine(op, f.at<float>(now), 1, f.at<float>(bound), 0, f.at<float>(to), n);
    });
    now = to;
  }
}

}  // namespace

#define GRU_FUNCTION(name, onnx_name) \
  void plan_##name(NodeBuilder& b) { plan_function(b, Function::k##name); }
#include "isa/functions.inc"
#undef GRU_FUNCTION

void plan_round(NodeBuilder& b) {
  plan_scalar(b, [](double x) { return std::nearbyint(x); });
}
void plan_sin(NodeBuilder& b) {
  plan_scalar(b, [](double x) { return std::sin(x); });
}
void plan_cos(NodeBuilder& b) {
  plan_scalar(b, [](double x) { return std::cos(x); });
}

void plan_sign(NodeBuilder& b) {
  const DType dtype = b.in(0).dtype;
  if (dtype == DType::kBool) b.expect(0, DType::kFloat32);
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (!std::is_same_v<T, uint8_t>) {
      emit_each<T, T>(b, dtype, [](T x) { return sign(x); });
    }
  });
}

void plan_gelu(NodeBuilder& b) {
  const std::string form = b.attr("approximate", "none");
  if (form == "none") {
    return plan_scalar(b, [](double x) { return 0.5 * x * (1 + std::erf(x * M_SQRT1_2)); });
  }
  if (form != "tanh") {
    b.refuse(ErrorCode::kInvalidArgument,
             "approximate is '" + form + "'; it must be 'none' or 'tanh'");
  }
  plan_scalar(b, [](double x) {
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  });
}

void plan_hard_swish(NodeBuilder& b) {
  plan_scalar(b, [](double x) { return x * std::min(std::max(x / 6 + 0.5, 0.0), 1.0); });
}

void plan_clip(NodeBuilder& b) {
  const DType dtype = b.in(0).dtype;
  std::vector<size_t> used = {0};
  for (const size_t i : {size_t{1}, size_t{2}}) {
    if (!b.has(i)) continue;
    b.expect(i, dtype);
    if (count(b.in(i).dims) != 1) {
      b.refuse(ErrorCode::kInvalidArgument,
               "a bound of shape " + to_string(b.in(i).dims) + "; it must be one number");
    }
    used.push_back(i);
  }
  check_data(b, used);
  for (const size_t i : used) merge_times(b, b.in(0).time, b.in(i).time);
  if (used.size() == 1) return b.view(0, 0, b.in(0).dims, b.in(0).time);
  if (dtype == DType::kFloat32) return emit_float_clip(b);
  if (dtype == DType::kInt64) return emit_clip<int64_t>(b, dtype);
  if (dtype == DType::kInt32) return emit_clip<int32_t>(b, dtype);
  b.expect(0, DType::kFloat32);
}

void plan_cast(NodeBuilder& b) {
  const Value& x = b.in(0);
  const DType to = cast_target(b);
  if (to == x.dtype) return b.view(0, 0, x.dims, x.time);
  with_type(x.dtype, [&](auto from) {
    with_type(to, [&](auto result) {
      using X = decltype(from);
      using Y = decltype(result);
      emit_each<X, Y>(b, to, [](X value) { return convert<Y>(value); });
    });
  });
}

}  // namespace gruengine
