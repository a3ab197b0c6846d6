// SPDX-License-Identifier: MIT
// Long short-term memory (Hochreiter & Schmidhuber, 1997; Gers et al., 2000; ONNX LSTM):
//   i = f(Wi x + Ri h + Pi c + bi)     f = f(Wf x + Rf h + Pf c + bf)     c~ = g(Wc x + Rc h + bc)
//   c' = f c + i c~                    o = f(Wo x + Ro h + Po c' + bo)    h' = o h(c')
// Gate order in panels: i, o, f, c. Coupled cells take 1 - i for the forget gate.
#pragma once

GRU_BEGIN_KERNELS

struct LstmCell {
  static constexpr int kGates = 4;
  static constexpr int kChains = 4;
  static constexpr int recurrent_chain(int gate) { return gate; }
  static constexpr bool kReadsH = false;
  static constexpr bool kReadsC = true;
  static constexpr bool kWritesC = true;
  static constexpr bool kReadsGate = false;
  static constexpr bool kWritesGate = false;
  static constexpr bool kPeephole = true;

  template <class V, class Functions>
  static void update(const V* pre, Unit<V>& u, const Functions& f) {
    V i = pre[0];
    V o = pre[1];
    V forget = pre[2];
    if (u.has_peephole) {
      i = fma(u.peephole_i, u.c, i);
      forget = fma(u.peephole_f, u.c, forget);
    }
    i = f.gate(i);
    forget = f.coupled() ? splat(1.0f) - i : f.gate(forget);
    u.c = fma(forget, u.c, i * f.candidate(pre[3]));
    if (u.has_peephole) o = fma(u.peephole_o, u.c, o);
    u.h_out = f.gate(o) * f.output(u.c);
  }
};

GRU_END_KERNELS
