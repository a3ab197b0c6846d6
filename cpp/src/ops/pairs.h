// SPDX-License-Identifier: MIT
// Elementwise operators of two broadcast inputs, in plain C++.
#pragma once

#include <string>
#include <type_traits>

#include "ops/loops.h"

namespace gruengine {

// Two inputs and where their result goes.
struct Pair {
  Slot a, b, y;
  Loops<3> loops;
};

// Calls f(T{}) with the C++ type of `dtype`; bool elements are bytes of 0 or 1.
template <class F>
void with_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kFloat32:
      return f(float{});
    case DType::kInt64:
      return f(int64_t{});
    case DType::kInt32:
      return f(int32_t{});
    case DType::kBool:
      return f(uint8_t{});
  }
}

// Calls f with the stride of an inner loop, 0 or 1, as a constant: its body can then be vectorised.
template <class F>
void with_stride(int64_t stride, const F& f) {
  if (stride == 0) return f(std::integral_constant<int64_t, 0>{});
  f(std::integral_constant<int64_t, 1>{});
}

inline void same_types(const NodeBuilder& b, size_t i, size_t j) {
  const Value& one = b.in(i);
  const Value& other = b.in(j);
  if (one.dtype != other.dtype) {
    b.refuse(ErrorCode::kInvalidArgument, std::string("inputs ") + std::to_string(i) + " and " +
                                              std::to_string(j) + " are " + name_of(one.dtype) +
                                              " and " + name_of(other.dtype) +
                                              "; they must be of one type");
  }
}

// Declares the result of two inputs of any types.
inline Pair declare_pair(NodeBuilder& b, DType result) {
  const Dims& a = b.in(0).dims;
  const Dims& c = b.in(1).dims;
  const Dims out = broadcast_dims(b, {a, c});
  check_data(b, {0, 1});
  const Loops<3> loops(b, out,
                       {broadcast_strides(a, out), broadcast_strides(c, out), row_major(out)});
  const Slot slot_a = b.in(0).slot;
  const Slot slot_b = b.in(1).slot;
  const Slot y = b.output(0, result, out, b.broadcast_time({0, 1}, out.size()));
  return {slot_a, slot_b, y, loops};
}

// y = f(a, b) for every element.
template <class A, class B, class Y, class F>
void emit_pairs(NodeBuilder& b, const Pair& pair, F f) {
  b.emit([pair, f](const Frame& frame) {
    const int64_t sa = pair.loops.inner_stride()[0];
    const int64_t sb = pair.loops.inner_stride()[1];
    const int64_t n = pair.loops.inner();
    pair.loops.run([&](const Loops<3>::Offsets& at) {
      const A* x = frame.at<A>(pair.a) + at[0];
      const B* z = frame.at<B>(pair.b) + at[1];
      Y* y = frame.at<Y>(pair.y) + at[2];
      with_stride(sa, [&](auto step) {
        with_stride(sb, [&](auto other) {
          for (int64_t i = 0; i < n; ++i) y[i] = f(x[i * step], z[i * other]);
        });
      });
    });
  });
}

}  // namespace gruengine
