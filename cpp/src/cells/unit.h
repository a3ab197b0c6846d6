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
// and, for training, how its slots lie (isa/train_table.h):
//   kSlots           slots of a unit
//   kFirst           the slot of the first of its sums with h
//   slot(chain)      the slot of a sum, and of what is kept of it
#pragma once

GRU_BEGIN_KERNELS

template <class V>
struct Unit {
  V h, c, gate;
  V h_out;
  bool has_peephole;
  V peephole_i, peephole_o, peephole_f;
  V kept[4];  // what backward() is given, by chain
};

// The backward pass of V units. A cell finds what it kept in its slots and puts the deltas there.
template <class V>
struct Delta {
  V slot[4];
  V h, c, c_out;     // previous output, previous cell, new cell
  V dh, dc, dreset;  // gradients of the output, the cell, and r * h
  bool has_peephole;
  V peephole_i, peephole_o, peephole_f;
};

GRU_END_KERNELS
