// SPDX-License-Identifier: MIT
// The plain recurrent cell (Elman, 1990; ONNX RNN): h' = g(W x + R h + b).
#pragma once

GRU_BEGIN_KERNELS

struct RnnCell {
  static constexpr int kGates = 1;
  static constexpr int kChains = 1;
  static constexpr int recurrent_chain(int gate) { return gate; }
  static constexpr bool kReadsH = false;
  static constexpr bool kReadsC = false;
  static constexpr bool kWritesC = false;
  static constexpr bool kReadsGate = false;
  static constexpr bool kWritesGate = false;
  static constexpr bool kPeephole = false;

  template <class V, class Functions>
  GRU_INLINE void update(const V* pre, Unit<V>& u, const Functions& f) {
    u.h_out = f.candidate(pre[0]);
    u.kept[0] = f.kept(pre[0], u.h_out);
  }

  static constexpr int kSlots = 1;
  static constexpr int kFirst = 0;
  static constexpr int slot(int chain) { return chain; }

  template <class V, class Slopes>
  static void backward(Delta<V>& d, const Slopes& f) {
    d.slot[0] = d.dh * f.candidate(d.slot[0]).slope;
  }
};

GRU_END_KERNELS
