// SPDX-License-Identifier: MIT
// Comparisons, logic, and the choice by a condition.
#include "ops/pairs.h"

namespace gruengine {
namespace {

template <class F>
void plan_comparison(NodeBuilder& b, bool orders, F f) {
  same_types(b, 0, 1);
  const DType dtype = b.in(0).dtype;
  if (orders && dtype == DType::kBool) {
    b.refuse(ErrorCode::kInvalidArgument, "inputs are bool; they must be numbers");
  }
  const Pair pair = declare_pair(b, DType::kBool);
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    emit_pairs<T, T, uint8_t>(b, pair, [f](T x, T y) { return static_cast<uint8_t>(f(x, y)); });
  });
}

template <class F>
void plan_logic(NodeBuilder& b, F f) {
  b.expect(0, DType::kBool);
  b.expect(1, DType::kBool);
  emit_pairs<uint8_t, uint8_t, uint8_t>(
      b, declare_pair(b, DType::kBool),
      [f](uint8_t x, uint8_t y) { return static_cast<uint8_t>(f(x != 0, y != 0)); });
}

// Both sides are read before one is chosen, so there is nothing to branch on.
template <class T>
void choose(const uint8_t* c, int64_t sc, const T* x, int64_t sx, const T* z, int64_t sz, T* y,
            int64_t n) {
  if (sc == 0) {
    const T* from = *c != 0 ? x : z;
    const int64_t step = *c != 0 ? sx : sz;
    for (int64_t i = 0; i < n; ++i) y[i] = from[i * step];
    return;
  }
  with_stride(sx, [&](auto step) {
    with_stride(sz, [&](auto other) {
      for (int64_t i = 0; i < n; ++i) {
        const T yes = x[i * step];
        const T no = z[i * other];
        y[i] = c[i] != 0 ? yes : no;
      }
    });
  });
}

template <class T>
void emit_choice(NodeBuilder& b, const std::array<Slot, 4>& slots, const Loops<4>& loops) {
  b.emit([slots, loops](const Frame& f) {
    const auto& stride = loops.inner_stride();
    const int64_t n = loops.inner();
    loops.run([&](const Loops<4>::Offsets& at) {
      const uint8_t* c = f.at<uint8_t>(slots[0]) + at[0];
      const T* x = f.at<T>(slots[1]) + at[1];
      const T* z = f.at<T>(slots[2]) + at[2];
      choose(c, stride[0], x, stride[1], z, stride[2], f.at<T>(slots[3]) + at[3], n);
    });
  });
}

}  // namespace

void plan_equal(NodeBuilder& b) {
  plan_comparison(b, false, [](auto x, auto y) { return x == y; });
}
void plan_less(NodeBuilder& b) {
  plan_comparison(b, true, [](auto x, auto y) { return x < y; });
}
void plan_less_or_equal(NodeBuilder& b) {
  plan_comparison(b, true, [](auto x, auto y) { return x <= y; });
}
void plan_greater(NodeBuilder& b) {
  plan_comparison(b, true, [](auto x, auto y) { return x > y; });
}
void plan_greater_or_equal(NodeBuilder& b) {
  plan_comparison(b, true, [](auto x, auto y) { return x >= y; });
}
void plan_and(NodeBuilder& b) {
  plan_logic(b, [](bool x, bool y) { return x && y; });
}
void plan_or(NodeBuilder& b) {
  plan_logic(b, [](bool x, bool y) { return x || y; });
}
void plan_xor(NodeBuilder& b) {
  plan_logic(b, [](bool x, bool y) { return x != y; });
}

void plan_not(NodeBuilder& b) {
  const Value& x = b.expect(0, DType::kBool);
  const int64_t n = count(x.dims);
  b.emit([n, from = x.slot, to = b.output(0, x.dtype, x.dims, x.time)](const Frame& f) {
    const auto* in = f.at<uint8_t>(from);
    auto* out = f.at<uint8_t>(to);
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<uint8_t>(in[i] == 0);
  });
}

void plan_where(NodeBuilder& b) {
  b.expect(0, DType::kBool);
  same_types(b, 1, 2);
  const DType dtype = b.in(1).dtype;
  const Dims out = broadcast_dims(b, {b.in(0).dims, b.in(1).dims, b.in(2).dims});
  check_data(b, {0, 1, 2});
  const Loops<4> loops(b, out,
                       {broadcast_strides(b.in(0).dims, out), broadcast_strides(b.in(1).dims, out),
                        broadcast_strides(b.in(2).dims, out), row_major(out)});
  const std::array<Slot, 4> slots = {
      b.in(0).slot, b.in(1).slot, b.in(2).slot,
      b.output(0, dtype, out, b.broadcast_time({0, 1, 2}, out.size()))};
  with_type(dtype, [&](auto type) { emit_choice<decltype(type)>(b, slots, loops); });
}

}  // namespace gruengine
