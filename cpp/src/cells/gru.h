// SPDX-License-Identifier: MIT
// Gated recurrent unit (Cho et al., 2014; ONNX GRU):
//   z = f(Wz x + Rz h + bz)     r = f(Wr x + Rr h + br)     h' = (1 - z) n + z h
//   reset after the product:    n = g(Wn x + bn + r (Rn h + bh))
//   reset before the product:   n = g(Wn x + bn + Rn (r h))
// Gate order in panels: z, r, n. Reset before takes two kernels: z and r for every unit, then n.
// Cells that update the other way round compute h' = (1 - z) h + z n.
// Slots are n, z, r and, for a reset after the product, s = Rn h + b: those that take part in the
// product with x are neighbours, and so are those that take part in one with h.
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

template <class V>
struct Unmixed {
  V n, z;
};

// The deltas of the candidate and the update gate; leaves in dh what h gets without a product.
template <class V, class Slope, class Slopes>
GRU_INLINE Unmixed<V> unmix(Delta<V>& d, const Slope& n, const Slope& z, const Slopes& f) {
  const bool takes = f.update_takes();
  const V rest = d.dh * (splat(1.0f) - z.value);
  const V part = d.dh * z.value;
  const V dz = d.dh * (takes ? n.value - d.h : d.h - n.value);
  d.dh = takes ? rest : part;
  return {(takes ? part : rest) * n.slope, dz * z.slope};
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
  GRU_INLINE void update(const V* pre, Unit<V>& u, const Functions& f) {
    const V z = f.gate(pre[0]);
    const V r = f.gate(pre[1]);
    const V sum = fma(r, pre[3], pre[2]);
    const V n = f.candidate(sum);
    u.h_out = mix(z, n, u.h, f);
    u.kept[0] = f.kept(pre[0], z);
    u.kept[1] = f.kept(pre[1], r);
    u.kept[2] = f.kept(sum, n);
    u.kept[3] = pre[3];
  }

  static constexpr int kSlots = 4;
  static constexpr int kFirst = 1;
  static constexpr int slot(int chain) { return chain == 3 ? 3 : (chain + 1) % 3; }

  template <class V, class Slopes>
  static void backward(Delta<V>& d, const Slopes& f) {
    const auto n = f.candidate(d.slot[0]);
    const auto z = f.gate(d.slot[1]);
    const auto r = f.gate(d.slot[2]);
    const auto [delta_n, delta_z] = unmix(d, n, z, f);
    d.slot[2] = delta_n * d.slot[3] * r.slope;
    d.slot[0] = delta_n;
    d.slot[1] = delta_z;
    d.slot[3] = delta_n * r.value;
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
  GRU_INLINE void update(const V* pre, Unit<V>& u, const Functions& f) {
    const V r = f.gate(pre[1]);
    u.gate = f.gate(pre[0]);
    u.h_out = r * u.h;
    u.kept[0] = f.kept(pre[0], u.gate);
    u.kept[1] = f.kept(pre[1], r);
  }

  static constexpr int kSlots = 3;
  static constexpr int kFirst = 1;
  static constexpr int slot(int chain) { return chain + 1; }

  template <class V, class Slopes>
  static void backward(Delta<V>& d, const Slopes& f) {
    const auto r = f.gate(d.slot[2]);
    d.slot[2] = d.dreset * d.h * r.slope;
    d.dh = fma(d.dreset, r.value, d.dh);
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
  GRU_INLINE void update(const V* pre, Unit<V>& u, const Functions& f) {
    const V n = f.candidate(pre[0]);
    u.h_out = mix(u.gate, n, u.c, f);
    u.kept[0] = f.kept(pre[0], n);
  }

  static constexpr int kSlots = 3;
  static constexpr int kFirst = 0;
  static constexpr int slot(int chain) { return chain; }

  template <class V, class Slopes>
  static void backward(Delta<V>& d, const Slopes& f) {
    const auto [delta_n, delta_z] = unmix(d, f.candidate(d.slot[0]), f.gate(d.slot[1]), f);
    d.slot[0] = delta_n;
    d.slot[1] = delta_z;
  }
};

GRU_END_KERNELS
