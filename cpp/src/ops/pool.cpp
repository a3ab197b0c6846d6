// SPDX-License-Identifier: MIT
// Pools over windows, clipped to what is there.
#include <limits>

#include "ops/window.h"

namespace gruengine {
namespace {

struct Span {
  int64_t first, last;
};

// The taps of one position that lie in [-margin_before, in + margin_after).
Span taps_in(const WindowAxis& axis, int64_t position, int64_t before, int64_t after) {
  const int64_t start = position * axis.stride - axis.before;
  const int64_t skipped = std::max<int64_t>(-before - start, 0);
  const int64_t first = (skipped + axis.dilation - 1) / axis.dilation;
  const int64_t room = axis.in + after - start;
  const int64_t last =
      room <= 0 ? 0 : std::min(axis.kernel, (room + axis.dilation - 1) / axis.dilation);
  return {first, std::max(first, last)};
}

struct Pool {
  Window window;
  bool mean;
  bool counts_pads;

  float position(const float* plane, int64_t row, int64_t column) const {
    const WindowAxis& r = window.rows;
    const WindowAxis& c = window.columns;
    const Span rows = taps_in(r, row, 0, 0);
    const Span columns = taps_in(c, column, 0, 0);
    double sum = 0;
    float most = -std::numeric_limits<float>::infinity();
    for (int64_t i = rows.first; i < rows.last; ++i) {
      const float* line = plane + (row * r.stride - r.before + i * r.dilation) * c.in;
      for (int64_t j = columns.first; j < columns.last; ++j) {
        const float value = line[column * c.stride - c.before + j * c.dilation];
        sum += value;
        most = value > most || value != value ? value : most;
      }
    }
    return mean ? static_cast<float>(sum / static_cast<double>(divisor(row, column))) : most;
  }

  int64_t divisor(int64_t row, int64_t column) const {
    const auto taps = [&](const WindowAxis& axis, int64_t at) {
      const Span span =
          counts_pads ? taps_in(axis, at, axis.before, axis.after) : taps_in(axis, at, 0, 0);
      return span.last - span.first;
    };
    return taps(window.rows, row) * taps(window.columns, column);
  }

  void operator()(const float* x, int64_t planes, float* y) const {
    for (int64_t p = 0; p < planes; ++p) {
      for (int64_t i = 0; i < window.rows.out; ++i) {
        for (int64_t j = 0; j < window.columns.out; ++j) *y++ = position(x, i, j);
      }
      x += window.rows.in * window.columns.in;
    }
  }
};

void plan_pool(NodeBuilder& b, bool mean) {
  const Dims& x = b.expect(0, DType::kFloat32).dims;
  if (b.wants(1)) b.refuse(ErrorCode::kUnsupported, "its second output (indices) is not supported");
  const Pool pool{window_of(b, b.attr_ints("kernel_shape")), mean,
                  b.attr("count_include_pad", int64_t{0}) != 0};
  const Dims out = window_dims(b, pool.window, x[1]);
  const Slot y = b.output(0, DType::kFloat32, out, window_time(b, pool.window, false));
  b.emit([pool, y, planes = x[0] * x[1], from = b.in(0).slot](const Frame& f) {
    pool(f.at<float>(from), planes, f.at<float>(y));
  });
}

}  // namespace

void plan_max_pool(NodeBuilder& b) { plan_pool(b, false); }
void plan_average_pool(NodeBuilder& b) { plan_pool(b, true); }

void plan_global_average_pool(NodeBuilder& b) {
  const Value& x = b.expect(0, DType::kFloat32);
  if (x.dims.size() < 3) {
    b.refuse(ErrorCode::kInvalidArgument,
             "input of shape " + to_string(x.dims) + "; it must be [N, C, ...]");
  }
  const int64_t planes = x.dims[0] * x.dims[1];
  const int64_t n = product(x.dims, 2, x.dims.size());
  if (n == 0) b.refuse(ErrorCode::kInvalidArgument, "takes the mean of no elements");
  Dims out = x.dims;
  std::fill(out.begin() + 2, out.end(), 1);
  Time time = x.time;
  for (int axis = 2; axis < static_cast<int>(out.size()); ++axis) {
    if (time == frames(axis)) time = time_along(b, 0, axis, "averages over the time axis");
  }
  const Slot y = b.output(0, DType::kFloat32, out, time);
  b.emit([planes, n, y, from = x.slot, reduce = b.kernels().reduce](const Frame& f) {
    reduce(Reduce::kMean, f.at<float>(from), planes, n, n, f.at<float>(y));
  });
}

}  // namespace gruengine
