// SPDX-License-Identifier: MIT
// Gated recurrent unit (Cho et al., 2014; ONNX GRU):
//   z = f(Wz x + Rz h + bz)     r = f(Wr x + Rr h + br)     h' = (1 - z) n + z h
//   reset after the product:    n = g(Wn x + bn + r (Rn h + bh))
//   reset before the product:   n = g(Wn x + bn + Rn (r h))
// Gate order in panels: z, r, n. Reset before takes two kernels: z and r for every unit, then n.
// Cells that update the other way round compute h' = (1 - z) h + z n.
#pragma once

GRU_BEGIN_KERNELS

// (1 - z) a + z b: exactly a at z = 0 and b at z = 1.
template <class V>
GRU_INLINE V blend(V z, V a, V b) {
  return fma(z, b, nfma(z, a, a));
}

template <class V, class Functions>
GRU_INLINE V mix(V z, V n, V h, const Functions& f) {
  return f.update_takes() ? blend(z, h, n) : blend(z, n, h);
}

struct GruAfterCell {
  static constexpr int kGates = 3;
  static constexpr int kChains = 4;
  static constexpr int recurrent_chain(int gate) { return gate == 2 ? 3 : gate; }
  static constexpr bool kReadsH = true;
  static constexpr bool kReadsC = false;
  static constexpr bool kWritesC = false;
  static constexpr bool kReadsGate = false;
  static constexpr bool kWritesGate = false;
  static constexpr bool kPeephole = false;

  template <class V, class Functions>
  static void update(const V* pre, Unit<V>& u, const Functions& f) {
    const V z = f.gate(pre[0]);
    const V n = f.candidate(fma(f.gate(pre[1]), pre[3], pre[2]));
    u.h_out = mix(z, n, u.h, f);
  }
};

struct GruBeforeGatesCell {
  static constexpr int kGates = 2;
  static constexpr int kChains = 2;
  static constexpr int recurrent_chain(int gate) { return gate; }
  static constexpr bool kReadsH = true;
  static constexpr bool kReadsC = false;
  static constexpr bool kWritesC = false;
  static constexpr bool kReadsGate = false;
  static constexpr bool kWritesGate = true;
  static constexpr bool kPeephole = false;

  template <class V, class Functions>
  static void update(const V* pre, Unit<V>& u, const Functions& f) {
    u.gate = f.gate(pre[0]);
    u.h_out = f.gate(pre[1]) * u.h;
  }
};

struct GruBeforeUpdateCell {
  static constexpr int kGates = 1;
  static constexpr int kChains = 1;
  static constexpr int recurrent_chain(int gate) { return gate; }
  static constexpr bool kReadsH = false;
  static constexpr bool kReadsC = true;
  static constexpr bool kWritesC = false;
  static constexpr bool kReadsGate = true;
  static constexpr bool kWritesGate = false;
  static constexpr bool kPeephole = false;

  template <class V, class Functions>
  static void update(const V* pre, Unit<V>& u, const Functions& f) {
    u.h_out = mix(u.gate, f.candidate(pre[0]), u.c, f);
  }
};

GRU_END_KERNELS
