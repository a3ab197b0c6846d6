// SPDX-License-Identifier: MIT
#include "ops/conv.h"

namespace gruengine {
namespace {

struct ColumnsConv {
  ConvShape shape;
  int32_t width;
  void (*gemm)(const GemmArgs&);
  const float* weights;  // [outputs][taps][group_in]
  const float* init;     // [outputs][block()], the bias in every column; nullptr: zeros
  Slot x, y, padded, panel;
  StridedCopy pad;              // of one image
  std::vector<int64_t> start;   // for each product of a group: where its first position lies
  std::vector<int64_t> places;  // for each position the distance from there; empty: by the stride

  int64_t block() const { return 4 * int64_t{width}; }

  const float* image(const Frame& f, int64_t n) const {
    const auto* from = f.at<float>(x) + n * shape.channels * shape.plane();
    if (!shape.window.pads()) return from;
    auto* to = f.at<float>(padded);
    const Window& w = shape.window;
    std::fill_n(to, shape.channels * shape.padded_plane(), 0.0f);
    pad.run(from, to + w.rows.before * w.columns.padded() + w.columns.before);
    return to;
  }

  void pack_row(const float* from, int64_t first, int64_t used, float* to) const {
    if (!places.empty()) {
      const int64_t* place = places.data() + first;
      for (int64_t j = 0; j < used; ++j) to[j] = from[place[j]];
    } else if (const int64_t step = shape.window.columns.stride; step == 1) {
      std::copy_n(from + first, used, to);
    } else {
      for (int64_t j = 0; j < used; ++j) to[j] = from[(first + j) * step];
    }
  }

  void product(const Frame& f, const float* from, int64_t group, int64_t first, float* to) const {
    const int64_t used = std::min(block(), shape.positions() - first);
    const Panels panels(shape.depth(), used, width);
    const int64_t columns = whole_vectors(used, width);
    auto* packed = f.at<float>(panel);
    for (int64_t k = 0; k < panels.k; ++k) {
      float* line = packed + k * columns;
      pack_row(from + start[static_cast<size_t>(k)], first, used, line);
      std::fill_n(line + used, columns - used, 0.0f);
    }
    const int64_t m = shape.group_out();
    multiply(f, gemm,
             product_of(m, weights + group * m * panels.k, panels.k, panels.at(packed),
                        init == nullptr ? nullptr : init + group * m * block(), block(), to + first,
                        shape.positions()));
  }

  void operator()(const Frame& f) const {
    const int64_t positions = shape.positions();
    for (int64_t n = 0; n < shape.images; ++n) {
      const float* from = image(f, n);
      for (int64_t g = 0; g < shape.groups; ++g) {
        const float* channels = from + g * shape.group_in() * shape.padded_plane();
        float* to = f.at<float>(y) + (n * shape.outputs + g * shape.group_out()) * positions;
        for (int64_t p = 0; p < positions; p += block()) product(f, channels, g, p, to);
      }
    }
  }
};

const float* weights_by_tap(const NodeBuilder& b, const ConvShape& shape) {
  const int64_t taps = shape.window.taps();
  const int64_t channels = shape.group_in();
  const WindowAxis& r = shape.window.rows;
  const WindowAxis& c = shape.window.columns;
  if (taps == r.whole * c.whole && (taps == 1 || channels == 1)) {
    return static_cast<const float*>(b.in(1).constant);
  }
  return b.derived(1, "by tap" + used_taps(shape.window), shape.outputs * taps * channels,
                   [&](const float* w, float* to) {
                     for (int64_t m = 0; m < shape.outputs; ++m) {
                       for (int64_t t = 0; t < taps; ++t) {
                         for (int64_t i = 0; i < channels; ++i) *to++ = w[shape.weight(m, i, t)];
                       }
                     }
                   });
}

std::vector<int64_t> starts_of(const ConvShape& shape) {
  const Window& w = shape.window;
  std::vector<int64_t> start;
  for (int64_t i = 0; i < w.rows.kernel; ++i) {
    for (int64_t j = 0; j < w.columns.kernel; ++j) {
      for (int64_t c = 0; c < shape.group_in(); ++c) {
        start.push_back(c * shape.padded_plane() + i * w.rows.dilation * w.columns.padded() +
                        j * w.columns.dilation);
      }
    }
  }
  return start;
}

std::vector<int64_t> places_of(const Window& w) {
  std::vector<int64_t> places;
  if (w.rows.out == 1) return places;
  for (int64_t i = 0; i < w.rows.out; ++i) {
    for (int64_t j = 0; j < w.columns.out; ++j) {
      places.push_back(i * w.rows.stride * w.columns.padded() + j * w.columns.stride);
    }
  }
  return places;
}

}  // namespace

void emit_conv_columns(NodeBuilder& b, const ConvShape& shape, Slot y) {
  const Window& w = shape.window;
  const int32_t width = b.kernels().width;
  const int64_t block = 4 * int64_t{width};
  const float* init = nullptr;
  if (b.has(2)) {
    init = b.derived(2, "columns", shape.outputs * block, [&](const float* bias, float* to) {
      for (int64_t m = 0; m < shape.outputs; ++m) std::fill_n(to + m * block, block, bias[m]);
    });
  }
  const int64_t floats = shape.channels * shape.padded_plane();
  const Slot x = b.in(0).slot;
  const Slot padded = w.pads() ? b.scratch(floats * int64_t{sizeof(float)}) : x;
  const Slot panel = b.scratch(Panels(shape.depth(), block, width).bytes());
  const StridedCopy pad(b, DType::kFloat32, {shape.channels, w.rows.in, w.columns.in},
                        {shape.plane(), w.columns.in, 1},
                        {shape.padded_plane(), w.columns.padded(), 1});
  b.emit(ColumnsConv{shape, width, b.kernels().gemm, weights_by_tap(b, shape), init, x, y, padded,
                     panel, pad, starts_of(shape), places_of(w)});
}

}  // namespace gruengine
