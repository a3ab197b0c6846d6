// SPDX-License-Identifier: MIT
// A convolution as matrix products, in two forms with the same numbers: each output is one chain
// over the taps of the kernel and, within a tap, over the channels.
#pragma once

#include "ops/copy.h"
#include "ops/low_right.h"
#include "ops/panels.h"
#include "ops/window.h"

namespace gruengine {

struct ConvShape {
  int64_t images, channels, outputs, groups;
  Window window;
  int64_t group_in() const { return channels / groups; }
  int64_t group_out() const { return outputs / groups; }
  int64_t positions() const { return window.positions(); }
  // Where weight (output, channel of its group, tap that is used) lies.
  int64_t weight(int64_t output, int64_t channel, int64_t tap) const {
    const WindowAxis& r = window.rows;
    const WindowAxis& c = window.columns;
    return ((output * group_in() + channel) * r.whole + r.first + tap / c.kernel) * c.whole +
           c.first + tap % c.kernel;
  }
  // Products in one output.
  int64_t depth() const { return window.taps() * group_in(); }
  int64_t plane() const { return window.rows.in * window.columns.in; }
  int64_t padded_plane() const { return window.rows.padded() * window.columns.padded(); }
};

// Tells apart what is kept of one constant for different taps.
inline std::string used_taps(const Window& w) {
  return " taps " + to_string({w.rows.first, w.rows.kernel, w.columns.first, w.columns.kernel});
}

// Whether the products are below float32: then they are made in rows, for every size.
bool is_low(const NodeBuilder& b, const ConvShape& shape);

// y[position, output] = x rows * packed weights, then transposed: good for few positions.
void emit_conv_rows(NodeBuilder& b, const ConvShape& shape, Slot y);
// y[output, position] = weights * packed columns of x: good for many positions.
void emit_conv_columns(NodeBuilder& b, const ConvShape& shape, Slot y);

}  // namespace gruengine
