// SPDX-License-Identifier: MIT
// A transposed convolution: one product gives what each input adds to each tap, and these are added
// up tap by tap, so an output is the same sum whatever lies around it.
#include "ops/panels.h"
#include "ops/window.h"

namespace gruengine {
namespace {

constexpr int64_t kMost = 16'777'216;
// Products are kept for so many taps at a time.
constexpr int64_t kKept = 1 << 18;

struct Transposed {
  int64_t images, channels, outputs, groups;
  Window window;
  int64_t group_in() const { return channels / groups; }
  int64_t group_out() const { return outputs / groups; }
  int64_t places_in() const { return window.rows.in * window.columns.in; }
  int64_t places_out() const { return window.rows.out * window.columns.out; }
};

Dims numbers(const NodeBuilder& b, const char* name, size_t size, int64_t least) {
  const Dims given = b.has_attr(name) ? b.attr_ints(name) : Dims(size, least);
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

WindowAxis axis_of(const NodeBuilder& b, int64_t in, int64_t kernel, int64_t stride,
                   int64_t dilation, int64_t before, int64_t after, int64_t extra) {
  WindowAxis axis{in, kernel, stride, dilation, before, after, 0, 0, kernel};
  if (kernel < 1 || kernel > kMost || in > kMost) {
    b.refuse(ErrorCode::kInvalidArgument, "a kernel of " + std::to_string(kernel) + " over " +
                                              std::to_string(in) + " inputs; sizes are from 1 to " +
                                              std::to_string(kMost));
  }
  if (extra >= std::max(stride, dilation)) {
    b.refuse(ErrorCode::kInvalidArgument, "output_padding is " + std::to_string(extra) +
                                              "; it must be less than the stride or dilation");
  }
  if (in > 0) axis.out = (in - 1) * stride + (kernel - 1) * dilation + 1 + extra - before - after;
  if (axis.out < 0) {
    b.refuse(ErrorCode::kInvalidArgument, "pads of " + std::to_string(before + after) +
                                              " leave less than nothing of the output");
  }
  return axis;
}

Transposed shape_of(const NodeBuilder& b) {
  const Dims& x = b.expect(0, DType::kFloat32).dims;
  const Dims& w = b.expect(1, DType::kFloat32).dims;
  if (b.in(1).constant == nullptr) {
    b.refuse(ErrorCode::kUnsupported, "its weights depend on data; they must be constant");
  }
  const int64_t groups = b.attr("group", int64_t{1});
  const bool ranks = (x.size() == 3 || x.size() == 4) && w.size() == x.size();
  if (!ranks || groups < 1 || x[1] % groups != 0 || w[0] != x[1]) {
    b.refuse(ErrorCode::kInvalidArgument, "input " + to_string(x) + " and weights " + to_string(w) +
                                              " do not fit " + std::to_string(groups) + " groups");
  }
  const Dims kernel(w.begin() + 2, w.end());
  if (b.has_attr("kernel_shape") && b.attr_ints("kernel_shape") != kernel) {
    b.refuse(ErrorCode::kInvalidArgument, "kernel_shape is " +
                                              to_string(b.attr_ints("kernel_shape")) +
                                              " for weights " + to_string(w));
  }
  const size_t n = kernel.size();
  const Dims strides = numbers(b, "strides", n, 1);
  const Dims dilations = numbers(b, "dilations", n, 1);
  const Dims pads = numbers(b, "pads", 2 * n, 0);
  const Dims extra = numbers(b, "output_padding", n, 0);
  Transposed shape{x[0], x[1], w[1] * groups, groups, {}};
  shape.window.two = n == 2;
  for (size_t i = 0; i < n; ++i) {
    WindowAxis& axis = i + 1 == n ? shape.window.columns : shape.window.rows;
    axis =
        axis_of(b, x[i + 2], kernel[i], strides[i], dilations[i], pads[i], pads[n + i], extra[i]);
  }
  return shape;
}

// Frames are kept apart only where the kernel does nothing along time.
Time time_of(const NodeBuilder& b, const Transposed& shape) {
  check_data(b, {0, 1});
  const Time time = b.in(0).time;
  if (time.kind != Time::kFrames || time.axis == 0) return time;
  if (time.axis == 1) return time_along(b, 0, 1, "sums over the time axis");
  const bool rows = shape.window.two && time.axis == 2;
  const WindowAxis& axis = rows ? shape.window.rows : shape.window.columns;
  if (axis.kernel > 1) {
    b.mixes_time("its kernel of " + std::to_string(axis.kernel) + " spans frames along time");
  } else if (axis.stride > 1 || axis.pads() || axis.out != axis.in) {
    b.mixes_time("its stride or pads change the number of frames");
  }
  return time;
}

// [group][tap][output of the group][channel of the group]
const float* weights_by_tap(const NodeBuilder& b, const Transposed& s) {
  const int64_t taps = s.window.taps();
  const int64_t m = s.group_out();
  return b.derived(1, "transposed" + std::to_string(s.groups), s.channels * m * taps,
                   [&](const float* w, float* to) {
                     for (int64_t g = 0; g < s.groups; ++g) {
                       for (int64_t row = 0; row < taps * m; ++row) {
                         for (int64_t c = 0; c < s.group_in(); ++c) {
                           const int64_t channel = g * s.group_in() + c;
                           *to++ = w[(channel * m + row % m) * taps + row / m];
                         }
                       }
                     }
                   });
}

// The inputs of one axis that a tap takes to an output.
struct Span {
  int64_t first, last, start;  // inputs [first, last), and the output of the first
};

Span span_of(const WindowAxis& axis, int64_t tap) {
  const int64_t shift = tap * axis.dilation - axis.before;
  const int64_t first = shift >= 0 ? 0 : (-shift + axis.stride - 1) / axis.stride;
  const int64_t room = axis.out - 1 - shift;
  const int64_t last = room < 0 ? 0 : std::min(axis.in, room / axis.stride + 1);
  return {first, std::max(first, last), first * axis.stride + shift};
}

struct TransposedConv {
  Transposed shape;
  void (*gemm)(const GemmArgs&);
  int32_t width;
  const float* weights;
  const float* bias;  // nullptr: none
  Slot x, y, panel, kept;
  int64_t block;  // taps in one product

  void start(float* to, int64_t first_output) const {
    for (int64_t m = 0; m < shape.group_out(); ++m, to += shape.places_out()) {
      std::fill_n(to, shape.places_out(), bias == nullptr ? 0.0f : bias[first_output + m]);
    }
  }

  // Adds what one tap of one output takes from each input.
  void add(const float* from, int64_t tap, float* to) const {
    const WindowAxis& r = shape.window.rows;
    const WindowAxis& c = shape.window.columns;
    const Span rows = span_of(r, tap / c.kernel);
    const Span columns = span_of(c, tap % c.kernel);
    for (int64_t i = rows.first; i < rows.last; ++i) {
      const float* line = from + i * c.in;
      float* out = to + (rows.start + (i - rows.first) * r.stride) * c.out + columns.start;
      if (c.stride == 1) {
        for (int64_t j = columns.first; j < columns.last; ++j) out[j - columns.first] += line[j];
      } else {
        for (int64_t j = columns.first; j < columns.last; ++j, out += c.stride) *out += line[j];
      }
    }
  }

  void group(const Frame& f, const float* from, int64_t g, float* to) const {
    const Panels panels(shape.group_in(), shape.places_in(), width);
    auto* packed = f.at<float>(panel);
    auto* products = f.at<float>(kept);
    panels.pack(from, shape.places_in(), 1, packed);
    start(to, g * shape.group_out());
    const int64_t taps = shape.window.taps();
    const int64_t m = shape.group_out();
    for (int64_t first = 0; first < taps; first += block) {
      const int64_t used = std::min(block, taps - first);
      multiply(f, gemm,
               product_of(used * m, weights + (g * taps + first) * m * panels.k, panels.k,
                          panels.at(packed), nullptr, 0, products, panels.n));
      for (int64_t row = 0; row < used * m; ++row) {
        add(products + row * panels.n, first + row / m, to + row % m * shape.places_out());
      }
    }
  }

  void operator()(const Frame& f) const {
    for (int64_t n = 0; n < shape.images; ++n) {
      for (int64_t g = 0; g < shape.groups; ++g) {
        group(f, f.at<float>(x) + (n * shape.channels + g * shape.group_in()) * shape.places_in(),
              g, f.at<float>(y) + (n * shape.outputs + g * shape.group_out()) * shape.places_out());
      }
    }
  }
};

const float* bias_of(const NodeBuilder& b, const Transposed& shape) {
  if (!b.has(2)) return nullptr;
  const Value& bias = b.expect(2, DType::kFloat32);
  if (bias.constant == nullptr || bias.dims != Dims{shape.outputs}) {
    b.refuse(ErrorCode::kUnsupported, "bias of shape " + to_string(bias.dims) +
                                          "; it must be a constant of " +
                                          to_string({shape.outputs}));
  }
  check_data(b, {0, 2});
  return b.derived(2, "bias", shape.outputs,
                   [&](const float* from, float* to) { std::copy_n(from, shape.outputs, to); });
}

}  // namespace

void plan_conv_transpose(NodeBuilder& b) {
  const Transposed shape = shape_of(b);
  const Time time = time_of(b, shape);
  const Dims out = window_dims(b, shape.window, shape.outputs);
  const Slot y = b.output(0, DType::kFloat32, out, time);
  if (count(out) == 0) return;
  const int64_t m = shape.group_out();
  count({m, shape.window.taps(), shape.places_in()});  // refuses an overflow
  const int64_t rows = m * shape.places_in();
  const int64_t block =
      std::clamp<int64_t>(kKept / std::max<int64_t>(rows, 1), 1, shape.window.taps());
  const int32_t width = b.kernels().width;
  const Slot panel = b.scratch(Panels(shape.group_in(), shape.places_in(), width).bytes());
  const Slot kept = b.scratch(block * rows * int64_t{sizeof(float)});
  b.emit(TransposedConv{shape, b.kernels().gemm, width, weights_by_tap(b, shape), bias_of(b, shape),
                        b.in(0).slot, y, panel, kept, block});
}

}  // namespace gruengine
