// SPDX-License-Identifier: MIT
#include "ops/conv.h"

namespace gruengine {
namespace {

constexpr int64_t kMost = 2'147'483'648;

ConvShape conv_shape(const NodeBuilder& b) {
  const Dims& x = b.expect(0, DType::kFloat32).dims;
  const Dims& w = b.expect(1, DType::kFloat32).dims;
  if (b.in(1).constant == nullptr) {
    b.refuse(ErrorCode::kUnsupported, "its weights depend on data; they must be constant");
  }
  check_data(b, {0, 1});
  const int64_t groups = b.attr("group", int64_t{1});
  const bool ranks = x.size() >= 3 && w.size() == x.size();
  if (!ranks || groups < 1 || x[1] % groups != 0 || w[1] != x[1] / groups || w[0] % groups != 0) {
    b.refuse(ErrorCode::kInvalidArgument, "input " + to_string(x) + " and weights " + to_string(w) +
                                              " do not fit " + std::to_string(groups) + " groups");
  }
  const Dims kernel(w.begin() + 2, w.end());
  if (b.has_attr("kernel_shape") && b.attr_ints("kernel_shape") != kernel) {
    b.refuse(ErrorCode::kInvalidArgument, "kernel_shape is " +
                                              to_string(b.attr_ints("kernel_shape")) +
                                              " for weights " + to_string(w));
  }
  return {x[0], x[1], w[0], groups, window_of(b, kernel)};
}

void check_bias(const NodeBuilder& b, const ConvShape& shape) {
  if (!b.has(2)) return;
  b.expect(2, DType::kFloat32);
  check_data(b, {0, 2});
  if (b.in(2).constant == nullptr) {
    b.refuse(ErrorCode::kUnsupported, "its bias depends on data; it must be constant");
  }
  if (b.in(2).dims != Dims{shape.outputs}) {
    b.refuse(ErrorCode::kInvalidArgument, "bias of shape " + to_string(b.in(2).dims) +
                                              "; it must be " + to_string({shape.outputs}));
  }
}

// Which form wastes fewer lanes: both compute whole vectors of positions or of outputs.
bool prefers_columns(const ConvShape& shape, int32_t width) {
  const int64_t positions = shape.positions();
  const int64_t outputs = shape.group_out();
  if (outputs < width) return positions > outputs;
  // One channel in one row needs no gathering at all in rows.
  const bool plain = shape.channels == 1 && !shape.window.two;
  return positions >= 2 * int64_t{width} && !plain;
}

}  // namespace

bool is_low(const NodeBuilder& b, const ConvShape& shape) {
  // Few outputs would fill few lanes. All taps count, also those that this size does not need.
  const int64_t depth = shape.window.rows.whole * shape.window.columns.whole * shape.group_in();
  return shape.group_out() >= 16 && is_low(b, depth, shape.group_out());
}

void plan_conv(NodeBuilder& b) {
  ConvShape shape = conv_shape(b);
  check_bias(b, shape);
  const Time time = window_time(b, shape.window, true);
  const Dims out = window_dims(b, shape.window, shape.outputs);
  if (count({shape.channels, shape.window.rows.padded(), shape.window.columns.padded()}) > kMost) {
    b.refuse(ErrorCode::kUnsupported,
             "a padded image of over " + std::to_string(kMost) + " elements");
  }
  const Slot y = b.output(0, DType::kFloat32, out, time);
  if (count(out) == 0) return;
  shape.window = without_idle_taps(shape.window);
  if (!is_low(b, shape) && prefers_columns(shape, b.kernels().width)) {
    emit_conv_columns(b, shape, y);
  } else {
    emit_conv_rows(b, shape, y);
  }
}

}  // namespace gruengine
