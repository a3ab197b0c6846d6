// SPDX-License-Identifier: MIT
// What a cell sees of the V hidden units it updates. The kernels fill and store these; a cell says
// by its constants which of them it uses:
//   kGates           vectors of weights per row of a panel
//   kChains          sums per unit; recurrent_chain(g) is the sum that the products of gate g with
//   h
//                    go to (those with x go to sum g)
//   kReadsH          h: the previous output of the same units
//   kReadsC/WritesC  c, c_out: StepArgs::c and c_out
//   kReadsGate/...   gate: StepArgs::gate
#pragma once

GRU_BEGIN_KERNELS

template <class V>
struct Unit {
  V h, c, gate;
  V h_out;
  bool has_peephole;
  V peephole_i, peephole_o, peephole_f;
};

GRU_END_KERNELS
