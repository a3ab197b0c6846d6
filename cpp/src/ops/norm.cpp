// SPDX-License-Identifier: MIT
// Softmax and normalisations.
#include <cmath>

#include "ops/copy.h"

namespace gruengine {
namespace {

void plan_any_softmax(NodeBuilder& b, bool log) {
  const Value x = b.expect(0, DType::kFloat32);
  const int axis = b.axis(b.attr("axis", int64_t{-1}), x.dims.size());
  const auto at = static_cast<size_t>(axis);
  const Time time = time_along(b, 0, axis, "softmax over the time axis");
  const Slot y = b.output(0, x.dtype, x.dims, time);
  const int64_t n = x.dims[at];
  const int64_t outer = product(x.dims, 0, at);
  const int64_t inner = product(x.dims, at + 1, x.dims.size());
  const int64_t rows = outer * inner;
  if (n == 0 || rows == 0) return;
  const auto softmax = b.kernels().softmax;
  if (inner == 1) {
    b.emit([=, from = x.slot](const Frame& f) {
      softmax(f.at<float>(from), rows, n, log, f.at<float>(y));
    });
    return;
  }
  const Slot scratch = b.scratch(rows * n * int64_t{sizeof(float)});
  const StridedCopy in(b, x.dtype, {outer, inner, n}, {n * inner, 1, inner}, {inner * n, n, 1});
  const StridedCopy back(b, x.dtype, {outer, n, inner}, {n * inner, 1, n}, {n * inner, inner, 1});
  b.emit([=, from = x.slot](const Frame& f) {
    auto* lines = f.at<float>(scratch);
    in.run(f.at<float>(from), lines);
    softmax(lines, rows, n, log, lines);
    back.run(lines, f.at<float>(y));
  });
}

// Input i of a normalisation over `dims`, broadcast to them where it is smaller.
Slot plan_affine(NodeBuilder& b, size_t i, const Dims& dims) {
  const Value& value = b.expect(i, DType::kFloat32);
  if (broadcast_dims(b, {dims, value.dims}) != dims) {
    b.refuse(ErrorCode::kInvalidArgument, "input " + std::to_string(i) + " of shape " +
                                              to_string(value.dims) + " does not broadcast to " +
                                              to_string(dims));
  }
  if (count(value.dims) == count(dims)) return value.slot;
  const Slot to = b.scratch(count(dims) * int64_t{sizeof(float)});
  const StridedCopy copy(b, value.dtype, dims, broadcast_strides(value.dims, dims),
                         row_major(dims));
  b.emit([copy, to, from = value.slot](const Frame& f) {
    copy.run(f.at<float>(from), f.at<float>(to));
  });
  return to;
}

// x * scale + shift for each channel of [images, channels, n].
struct ScaleChannels {
  std::vector<float> scale, shift;
  int64_t images, n;
  void (*combine)(Binary, const float*, int64_t, const float*, int64_t, float*, int64_t);

  void operator()(const float* x, float* y) const {
    const auto channels = static_cast<int64_t>(scale.size());
    if (n == 1) {
      for (int64_t i = 0; i < images; ++i, x += channels, y += channels) {
        combine(Binary::kMul, x, 1, scale.data(), 1, y, channels);
        combine(Binary::kAdd, y, 1, shift.data(), 1, y, channels);
      }
      return;
    }
    for (int64_t i = 0; i < images; ++i) {
      for (size_t c = 0; c < scale.size(); ++c, x += n, y += n) {
        combine(Binary::kMul, x, 1, &scale[c], 0, y, n);
        combine(Binary::kAdd, y, 1, &shift[c], 0, y, n);
      }
    }
  }
};

const float* channel_constants(const NodeBuilder& b, size_t i, int64_t channels) {
  const Value& value = b.expect(i, DType::kFloat32);
  if (value.constant == nullptr) {
    b.refuse(ErrorCode::kUnsupported,
             "input " + std::to_string(i) + " depends on data; it must be constant");
  }
  if (value.dims != Dims{channels}) {
    b.refuse(ErrorCode::kInvalidArgument, "input " + std::to_string(i) + " has shape " +
                                              to_string(value.dims) + "; it must be " +
                                              to_string({channels}));
  }
  return static_cast<const float*>(value.constant);
}

}  // namespace

void plan_softmax(NodeBuilder& b) { plan_any_softmax(b, false); }
void plan_log_softmax(NodeBuilder& b) { plan_any_softmax(b, true); }

void plan_layer_normalization(NodeBuilder& b) {
  const Value x = b.expect(0, DType::kFloat32);
  if (b.wants(1) || b.wants(2)) {
    b.refuse(ErrorCode::kUnsupported, "only its first output is supported");
  }
  const int first = b.axis(b.attr("axis", int64_t{-1}), x.dims.size());
  Time time = x.time;
  for (int axis = first; axis < static_cast<int>(x.dims.size()); ++axis) {
    if (time == frames(axis)) time = time_along(b, 0, axis, "normalises over the time axis");
  }
  const Dims dims(x.dims.begin() + first, x.dims.end());
  const bool shifts = b.has(2);
  check_data(b, shifts ? std::vector<size_t>{0, 1, 2} : std::vector<size_t>{0, 1});
  for (size_t i = 1; i < (shifts ? 3 : 2); ++i) time = merge_times(b, time, b.in(i).time);
  const Slot scale = plan_affine(b, 1, dims);
  const Slot shift = shifts ? plan_affine(b, 2, dims) : scale;
  const Slot y = b.output(0, x.dtype, x.dims, time);
  const int64_t n = count(dims);
  const int64_t rows = product(x.dims, 0, static_cast<size_t>(first));
  if (n == 0 || rows == 0) return;
  b.emit([=, from = x.slot, eps = static_cast<float>(number(b, "epsilon", 1e-5)),
          layer_norm = b.kernels().layer_norm](const Frame& f) {
    layer_norm(f.at<float>(from), rows, n, f.at<float>(scale),
               shifts ? f.at<float>(shift) : nullptr, eps, f.at<float>(y));
  });
}

void plan_batch_normalization(NodeBuilder& b) {
  const Value x = b.expect(0, DType::kFloat32);
  if (x.dims.size() < 2) {
    b.refuse(ErrorCode::kInvalidArgument,
             "input of shape " + to_string(x.dims) + "; it must be [N, C, ...]");
  }
  if (b.attr("training_mode", int64_t{0}) != 0 || b.outputs() > 1) {
    b.refuse(ErrorCode::kUnsupported, "training_mode is set; only inference is supported");
  }
  const int64_t channels = x.dims[1];
  const float* scale = channel_constants(b, 1, channels);
  const float* bias = channel_constants(b, 2, channels);
  const float* mean = channel_constants(b, 3, channels);
  const float* variance = channel_constants(b, 4, channels);
  check_data(b, {0, 1, 2, 3, 4});
  const double eps = number(b, "epsilon", 1e-5);
  ScaleChannels norm{{}, {}, x.dims[0], product(x.dims, 2, x.dims.size()), b.kernels().combine};
  for (int64_t c = 0; c < channels; ++c) {
    const double factor = scale[c] / std::sqrt(variance[c] + eps);
    norm.scale.push_back(static_cast<float>(factor));
    norm.shift.push_back(static_cast<float>(bias[c] - mean[c] * factor));
  }
  b.emit([norm = std::move(norm), from = x.slot, y = b.output(0, x.dtype, x.dims, x.time)](
             const Frame& f) { norm(f.at<float>(from), f.at<float>(y)); });
}

}  // namespace gruengine
