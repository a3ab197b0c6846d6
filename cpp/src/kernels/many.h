// SPDX-License-Identifier: MIT
// Several vectors that go through the same operations side by side.
//
// The update of a cell is one long chain. A CPU looks only some hundred instructions ahead, so it
// would wait most of the time; with several chains in turns the pipes are full.
#pragma once

#include "kernels/base.h"

GRU_BEGIN_KERNELS

template <class T, int N>
struct Many {
  T v[N];
};

template <class T>
constexpr int kCount = 1;
template <class T, int N>
constexpr int kCount<Many<T, N>> = N;

template <class T>
GRU_INLINE T one_of(T x, int) {
  return x;
}
template <class T, int N>
GRU_INLINE T one_of(const Many<T, N>& x, int i) {
  return x.v[i];
}

// f of each; arguments that are not many are the same for all.
template <int N, class F, class... X>
GRU_INLINE auto each_of(F f, const X&... x) {
  Many<decltype(f(one_of(x, 0)...)), N> y;
  GRU_UNROLL
  for (int i = 0; i < N; ++i) y.v[i] = f(one_of(x, i)...);
  return y;
}

constexpr int most(int a, int b) { return a > b ? a : b; }
template <class... X>
constexpr int count_of() {
  int n = 1;
  ((n = most(n, kCount<X>)), ...);
  return n;
}

#define GRU_MANY_1(name)                                  \
  template <int N>                                        \
  GRU_INLINE auto name(const Many<Vec, N>& a) {           \
    return each_of<N>([](auto x) { return name(x); }, a); \
  }
#define GRU_MANY_2(name)                                                               \
  template <class A, class B>                                                          \
    requires(count_of<A, B>() > 1)                                                     \
  GRU_INLINE auto name(const A& a, const B& b) {                                       \
    return each_of<count_of<A, B>()>([](auto x, auto y) { return name(x, y); }, a, b); \
  }
#define GRU_MANY_3(name)                                                                         \
  template <class A, class B, class C>                                                           \
    requires(count_of<A, B, C>() > 1)                                                            \
  GRU_INLINE auto name(const A& a, const B& b, const C& c) {                                     \
    return each_of<count_of<A, B, C>()>([](auto x, auto y, auto z) { return name(x, y, z); }, a, \
                                        b, c);                                                   \
  }
GRU_MANY_1(abs)
GRU_MANY_1(reciprocal)
GRU_MANY_1(reciprocal_estimate)
GRU_MANY_2(operator+)
GRU_MANY_2(operator-)
GRU_MANY_2(operator*)
GRU_MANY_2(min)
GRU_MANY_2(max)
GRU_MANY_2(less)
GRU_MANY_2(copy_sign)
GRU_MANY_2(scale_small)
GRU_MANY_3(fma)
GRU_MANY_3(nfma)
GRU_MANY_3(select)
#undef GRU_MANY_1
#undef GRU_MANY_2
#undef GRU_MANY_3

#if defined(GRU_HAVE_LOOKUP)
template <int N>
GRU_INLINE Many<Vec, N> lookup32(const float* table, const Many<Vec, N>& at) {
  return each_of<N>([table](Vec x) { return lookup32(table, x); }, at);
}
template <int Bits, int N>
GRU_INLINE Many<Vec, N> shift_right(const Many<Vec, N>& a) {
  return each_of<N>([](Vec x) { return shift_right<Bits>(x); }, a);
}
#endif

GRU_END_KERNELS
