// SPDX-License-Identifier: MIT
// One row of an LSTM whose gates are fed by gates, or whose sums are normalised, after its
// products: rare cells, put together from the functions of the table. Inference and training share
// them.
//   full gate recurrence (Greff et al., 2017): the products hold those of the gates before
//   normalised (Ba et al., 2016):  a = gain_x n(W x) + gain_h n(R h) + b,
//                                  h' = o tanh(gain_c n(c') + shift_c),  n(v) = (v - mean) /
//                                  deviation
// Gates stand in the order i, o, f, c; nothing is in panels.
#pragma once

#include <cstdint>

#include "isa/table.h"

namespace gruengine {

struct LstmRow {
  const KernelTable* kernels;
  int64_t H;
  const float* peephole;  // [3H] i, o, f; nullptr: none
  const float* norm;      // [10H]: gain_x, gain_h [4H each], gain_c, shift_c; nullptr: none
  float epsilon;

  const float* gain_x() const { return norm; }
  const float* gain_h() const { return norm + 4 * H; }
  const float* gain_c() const { return norm + 8 * H; }
  const float* shift_c() const { return norm + 9 * H; }

  // y = n(x), which may be x; returns 1 / deviation.
  float normalise(const float* x, int64_t n, float* y) const;
  // a (holding W x) = gain_x n(a) + bias; n(a) goes to hat, which may be a. Returns 1 / deviation.
  float normalise_inputs(const float* bias, float* hat, float* a) const;
  // a += gain_h n(hat), hat (holding R h) = n(hat). Returns 1 / deviation.
  float add_states(float* hat, float* a) const;

  struct Cell {
    float* a;         // [4H] sums; then the gates i, o, f and the candidate
    const float* c;   // [H]
    float* c_out;     // [H], may be c
    float* hat;       // [H]: n(c'), where it is normalised
    float* squashed;  // [H]: what o multiplies
    float* h_out;     // [H]
  };
  // Returns 1 / deviation of the cell.
  float update(const Cell& at) const;

  struct CellGradient {
    const float* gates;  // [4H] as update left them
    const float *c, *c_out, *hat, *squashed;
    float scale;          // what update returned
    const float* dh;      // [H]
    float* dc;            // [H]: gradient of c', then of c
    const float* dgates;  // [3H]: gradient of the gates from the next step; nullptr: none
    float* dn;            // [H]: gradient of what tanh was given
    float* da;            // [4H]: gradient of the sums
  };
  void gradient(const CellGradient& at) const;
  // dv (holding gain * d, the gradient of n(v)) becomes the gradient of v.
  void normalise_back(const float* hat, float scale, int64_t n, float* dv) const;
};

}  // namespace gruengine
