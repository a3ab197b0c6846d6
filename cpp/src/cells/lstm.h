// SPDX-License-Identifier: MIT
// Long short-term memory (Hochreiter & Schmidhuber, 1997; Gers et al., 2000; ONNX LSTM):
//   i = f(Wi x + Ri h + Pi c + bi)     f = f(Wf x + Rf h + Pf c + bf)     c~ = g(Wc x + Rc h + bc)
//   c' = f c + i c~                    o = f(Wo x + Ro h + Po c' + bo)    h' = o h(c')
// Gate order in panels and slots: i, o, f, c. Coupled cells take 1 - i for the forget gate.
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
  GRU_INLINE void update(const V* pre, Unit<V>& u, const Functions& f) {
    V i = pre[0];
    V o = pre[1];
    V forget = pre[2];
    if (u.has_peephole) {
      i = fma(u.peephole_i, u.c, i);
      forget = fma(u.peephole_f, u.c, forget);
    }
    const V input = f.gate(i);
    const V keep = f.coupled() ? splat(1.0f) - input : f.gate(forget);
    const V candidate = f.candidate(pre[3]);
    u.c = fma(keep, u.c, input * candidate);
    if (u.has_peephole) o = fma(u.peephole_o, u.c, o);
    const V output = f.gate(o);
    u.h_out = output * f.output(u.c);
    u.kept[0] = f.kept(i, input);
    u.kept[1] = f.kept(o, output);
    u.kept[2] = f.kept(forget, keep);
    u.kept[3] = f.kept(pre[3], candidate);
  }

  static constexpr int kSlots = 4;
  static constexpr int kFirst = 0;
  static constexpr int slot(int chain) { return chain; }

  // dc is that of c', then that of c. The deltas are those of the pre-activations.
  template <class V, class Slopes>
  static void backward(Delta<V>& d, const Slopes& f) {
    const auto i = f.gate(d.slot[0]);
    const auto o = f.gate(d.slot[1]);
    auto forget = f.gate(d.slot[2]);
    const auto candidate = f.candidate(d.slot[3]);
    const auto output = f.output(d.c_out);
    const V delta_o = d.dh * output.value * o.slope;
    V dc = fma(d.dh * o.value, output.slope, d.dc);
    if (d.has_peephole) dc = fma(delta_o, d.peephole_o, dc);
    V di = dc * candidate.value;
    if (f.coupled()) {
      di = nfma(dc, d.c, di);
      forget.value = splat(1.0f) - i.value;
      forget.slope = splat(0.0f);
    }
    const V delta_i = di * i.slope;
    const V delta_f = dc * d.c * forget.slope;
    d.dc = dc * forget.value;
    if (d.has_peephole) d.dc = fma(delta_i, d.peephole_i, fma(delta_f, d.peephole_f, d.dc));
    d.slot[0] = delta_i;
    d.slot[1] = delta_o;
    d.slot[2] = delta_f;
    d.slot[3] = dc * i.value * candidate.slope;
  }
};

GRU_END_KERNELS
