// SPDX-License-Identifier: MIT
#include "ops/window.h"

#include <algorithm>

namespace gruengine {
namespace {

constexpr int64_t kMost = 16'777'216;

// An attribute with `size` numbers from `least` on, or `size` times `otherwise`.
Dims numbers(const NodeBuilder& b, const char* name, size_t size, int64_t least,
             int64_t otherwise) {
  if (!b.has_attr(name)) return Dims(size, otherwise);
  const Dims given = b.attr_ints(name);
  const bool fits =
      std::all_of(given.begin(), given.end(), [&](int64_t v) { return v >= least && v <= kMost; });
  if (given.size() != size || !fits) {
    b.refuse(ErrorCode::kInvalidArgument, std::string(name) + " is " + to_string(given) +
                                              "; it must be " + std::to_string(size) +
                                              " numbers from " + std::to_string(least) + " to " +
                                              std::to_string(kMost));
  }
  return given;
}

void resolve(const NodeBuilder& b, const std::string& auto_pad, bool ceil, WindowAxis& axis) {
  const int64_t extent = (axis.kernel - 1) * axis.dilation + 1;
  if (auto_pad == "VALID") axis.before = axis.after = 0;
  if (auto_pad == "SAME_UPPER" || auto_pad == "SAME_LOWER") {
    const int64_t out = (axis.in + axis.stride - 1) / axis.stride;
    const int64_t total = std::max<int64_t>((out - 1) * axis.stride + extent - axis.in, 0);
    axis.before = auto_pad == "SAME_UPPER" ? total / 2 : total - total / 2;
    axis.after = total - axis.before;
  }
  const int64_t room = axis.padded() - extent;
  const bool fits = room >= 0 || (ceil && axis.in > 0 && -room < axis.stride);
  if (!fits && (axis.padded() > 0 || axis.kernel > 1)) {
    b.refuse(ErrorCode::kInvalidArgument, "a kernel that covers " + std::to_string(extent) +
                                              " does not fit " + std::to_string(axis.padded()) +
                                              " inputs");
  }
  if (!fits) {
    axis.out = 0;
    return;
  }
  axis.out = (room + (ceil ? axis.stride - 1 : 0)) / axis.stride + 1;
  // With ceil_mode a last window may reach past the pads, but not begin in those behind.
  if (ceil && (axis.out - 1) * axis.stride >= axis.in + axis.before) --axis.out;
}

WindowAxis without_idle_taps(WindowAxis axis) {
  const auto used = [&](int64_t tap) {
    // Whether some position puts this tap on an element.
    const int64_t start = tap * axis.dilation - axis.before;
    const int64_t skipped = start >= 0 ? 0 : (-start + axis.stride - 1) / axis.stride;
    return skipped < axis.out && start + skipped * axis.stride < axis.in;
  };
  int64_t last = axis.kernel;
  while (last > 0 && !used(last - 1)) --last;
  if (last == 0) return axis;
  while (!used(axis.first) && (axis.first + 1) * axis.dilation <= axis.before) ++axis.first;
  axis.kernel = last - axis.first;
  axis.before -= axis.first * axis.dilation;
  const int64_t reach = (axis.out - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1;
  axis.after = std::max<int64_t>(reach - axis.in - axis.before, 0);
  return axis;
}

void report(const NodeBuilder& b, const WindowAxis& axis) {
  if (axis.kernel > 1) {
    b.mixes_time("its kernel of " + std::to_string(axis.kernel) + " spans frames along time");
  } else if (axis.stride > 1) {
    b.mixes_time("its stride of " + std::to_string(axis.stride) + " skips frames");
  } else if (axis.pads()) {
    b.mixes_time("pads the time axis");
  }
}

}  // namespace

Window window_of(const NodeBuilder& b, const Dims& kernel) {
  const Dims& dims = b.in(0).dims;
  if (dims.size() != 3 && dims.size() != 4) {
    b.refuse(ErrorCode::kUnsupported,
             "input of shape " + to_string(dims) + "; it must be [N, C, L] or [N, C, H, W]");
  }
  const size_t n = dims.size() - 2;
  const bool fits = std::all_of(kernel.begin(), kernel.end(),
                                [](int64_t size) { return size >= 1 && size <= kMost; });
  if (kernel.size() != n || !fits) {
    b.refuse(ErrorCode::kInvalidArgument, "kernel " + to_string(kernel) + " for input of shape " +
                                              to_string(dims) +
                                              "; each spatial axis needs a size from 1 on");
  }
  const Dims strides = numbers(b, "strides", n, 1, 1);
  const Dims dilations = numbers(b, "dilations", n, 1, 1);
  const Dims pads = numbers(b, "pads", 2 * n, 0, 0);
  const std::string auto_pad = b.attr("auto_pad", "NOTSET");
  if (auto_pad != "NOTSET" && auto_pad != "VALID" && auto_pad != "SAME_UPPER" &&
      auto_pad != "SAME_LOWER") {
    b.refuse(ErrorCode::kInvalidArgument,
             "auto_pad is '" + auto_pad + "'; it must be NOTSET, VALID, SAME_UPPER or SAME_LOWER");
  }
  const bool ceil = b.attr("ceil_mode", int64_t{0}) != 0;
  Window window;
  window.two = n == 2;
  for (size_t i = 0; i < n; ++i) {
    WindowAxis& axis = i + 1 == n ? window.columns : window.rows;
    axis = {dims[i + 2], kernel[i], strides[i], dilations[i], pads[i],
            pads[n + i], 0,         0,          kernel[i]};
    resolve(b, auto_pad, ceil, axis);
  }
  return window;
}

Window without_idle_taps(const Window& window) {
  return {without_idle_taps(window.rows), without_idle_taps(window.columns), window.two};
}

Dims window_dims(const NodeBuilder& b, const Window& window, int64_t channels) {
  Dims dims = {b.in(0).dims[0], channels};
  if (window.two) dims.push_back(window.rows.out);
  dims.push_back(window.columns.out);
  return dims;
}

Time window_time(const NodeBuilder& b, const Window& window, bool sums_channels) {
  const Time time = b.in(0).time;
  if (time.kind != Time::kFrames) return time;
  if (time.axis == 1 && sums_channels) return time_along(b, 0, 1, "sums over the time axis");
  if (time.axis == 2) report(b, window.two ? window.rows : window.columns);
  if (time.axis == 3) report(b, window.columns);
  return time;
}

}  // namespace gruengine
