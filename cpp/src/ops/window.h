// SPDX-License-Identifier: MIT
// How the kernel of a convolution or pool moves over [N, C, L] or [N, C, H, W].
#pragma once

#include "ops/ops.h"

namespace gruengine {

struct WindowAxis {
  int64_t in = 1;
  int64_t kernel = 1;
  int64_t stride = 1;
  int64_t dilation = 1;
  int64_t before = 0;
  int64_t after = 0;
  int64_t out = 1;
  int64_t first = 0;  // taps of the whole kernel before those that are used
  int64_t whole = 1;  // and how many it has
  int64_t padded() const { return in + before + after; }
  bool pads() const { return before > 0 || after > 0; }
};

// One spatial axis is seen as columns, with rows that are one and do nothing.
struct Window {
  WindowAxis rows, columns;
  bool two = false;
  int64_t taps() const { return rows.kernel * columns.kernel; }
  int64_t positions() const { return rows.out * columns.out; }
  bool pads() const { return rows.pads() || columns.pads(); }
};

// The window of input 0 from the attributes; `kernel` has one size for each spatial axis.
Window window_of(const NodeBuilder& b, const Dims& kernel);

// The window without the taps that see only pads, wherever it stands.
Window without_idle_taps(const Window& window);

// [N, channels, ...] with the sizes that the window leaves.
Dims window_dims(const NodeBuilder& b, const Window& window, int64_t channels);

// The time of the result; reports a time axis that the window combines.
Time window_time(const NodeBuilder& b, const Window& window, bool sums_channels);

}  // namespace gruengine
