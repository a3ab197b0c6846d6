// SPDX-License-Identifier: MIT
#include "ops/conv.h"

namespace gruengine {
namespace {

constexpr int64_t kRows = 256;  // of a product: with their outputs they stay in the second cache
constexpr int64_t kFewRows = 32;

// Where the rows of the left matrix come from.
enum class Source {
  kInput,   // the input itself: one position and one tap
  kImage,   // an image with the channels last: a row is a stretch of it
  kGather,  // rows gathered from such images
};

struct RowsConv {
  ConvShape shape;
  Source source;
  bool relays;     // images are copied: channels last, with pads
  int64_t images;  // gathered for one product
  void (*gemm)(const GemmArgs&);
  std::vector<PackedMatrix> weights;  // of each group
  std::vector<LowRight> low;          // of each group, instead of `weights`
  std::vector<const float*> bias;     // of each group, padded; empty: none
  Slot x, y, image_slot, rows_slot, product_slot;
  StridedCopy relay, gather;

  int64_t row_step() const { return shape.window.columns.stride * shape.channels; }
  int64_t image_floats() const { return shape.channels * shape.padded_plane(); }

  // Image n with the channels last, in place i of the scratch where it is copied.
  const float* image(const Frame& f, int64_t n, int64_t i) const {
    const auto* from = f.at<float>(x) + n * shape.channels * shape.plane();
    if (!relays) return from;
    const Window& w = shape.window;
    auto* to = f.at<float>(image_slot) + i * image_floats();
    if (w.pads()) std::fill_n(to, image_floats(), 0.0f);
    relay.run(from, to + (w.rows.before * w.columns.padded() + w.columns.before) * shape.channels);
    return to;
  }

  // c[m, outputs] of rows whose group 0 starts at a.
  void product(const Frame& f, int64_t g, int64_t m, const float* a, int64_t lda, float* c) const {
    const auto group = static_cast<size_t>(g);
    const PackedMatrix none{nullptr, shape.depth(), shape.group_out(), 0, 0};
    const GemmArgs args = product_of(m, a, lda, low.empty() ? weights[group] : none,
                                     bias.empty() ? nullptr : bias[group], 0,
                                     c + g * shape.group_out(), shape.outputs);
    low.empty() ? multiply(f, gemm, args) : multiply(f, low[group], args);
  }

  void store(const float* rows, int64_t n, int64_t first, int64_t m, float* to) const {
    transpose(rows, shape.outputs, to + n * shape.outputs * shape.positions() + first,
              shape.positions(), m, shape.outputs);
  }

  void run_input(const Frame& f) const {
    for (int64_t g = 0; g < shape.groups; ++g) {
      product(f, g, shape.images, f.at<float>(x) + g * shape.group_in(), shape.channels,
              f.at<float>(y));
    }
  }

  void run_images(const Frame& f) const {
    auto* rows = f.at<float>(product_slot);
    const int64_t positions = shape.positions();
    for (int64_t n = 0; n < shape.images; ++n) {
      const float* from = image(f, n, 0);
      for (int64_t p = 0; p < positions; p += kRows) {
        const int64_t m = std::min(kRows, positions - p);
        for (int64_t g = 0; g < shape.groups; ++g) {
          product(f, g, m, from + p * row_step() + g * shape.group_in(), row_step(), rows);
        }
        store(rows, n, p, m, f.at<float>(y));
      }
    }
  }

  void run_gathered(const Frame& f) const {
    auto* left = f.at<float>(rows_slot);
    const int64_t positions = shape.positions();
    const bool in_place = positions == 1;
    for (int64_t first = 0; first < shape.images; first += images) {
      const int64_t n = std::min(images, shape.images - first);
      float* c = in_place ? f.at<float>(y) + first * shape.outputs : f.at<float>(product_slot);
      if (relays) {
        for (int64_t i = 0; i < n; ++i) image(f, first + i, i);
      }
      const auto* from = relays ? f.at<float>(image_slot)
                                : f.at<float>(x) + first * shape.channels * shape.plane();
      for (int64_t g = 0; g < shape.groups; ++g) {
        for (int64_t i = 0; i < n; ++i) {
          gather.run(from + i * image_floats() + g * shape.group_in(),
                     left + i * positions * shape.depth());
        }
        product(f, g, n * positions, left, shape.depth(), c);
      }
      for (int64_t i = 0; !in_place && i < n; ++i) {
        store(c + i * positions * shape.outputs, first + i, 0, positions, f.at<float>(y));
      }
    }
  }

  void operator()(const Frame& f) const {
    if (source == Source::kInput) return run_input(f);
    if (source == Source::kImage) return run_images(f);
    run_gathered(f);
  }
};

Source source_of(const ConvShape& shape) {
  const Window& w = shape.window;
  if (w.taps() == 1 && shape.padded_plane() == 1) return Source::kInput;
  const bool stretch = w.rows.kernel == 1 && w.rows.out == 1 &&
                       (w.taps() == 1 || (shape.groups == 1 && w.columns.dilation == 1));
  const bool worth = shape.images == 1 || shape.positions() >= kFewRows;
  return stretch && worth ? Source::kImage : Source::kGather;
}

// Below float32.
std::vector<LowRight> pack_low(NodeBuilder& b, const ConvShape& shape, int64_t rows) {
  const int64_t channels = shape.group_in();
  std::vector<LowRight> packed;
  for (int64_t g = 0; is_low(b, shape) && g < shape.groups; ++g) {
    const int64_t first = g * shape.group_out();
    packed.push_back(low_right(b,
                               {1, shape.depth(), shape.group_out(),
                                "group " + std::to_string(g) + used_taps(shape.window),
                                [&, first](int64_t row, int64_t column) {
                                  return shape.weight(first + column, row % channels,
                                                      row / channels);
                                },
                                b.low_convolutions()},
                               rows));
  }
  return packed;
}

std::vector<PackedMatrix> pack_weights(const NodeBuilder& b, const ConvShape& shape) {
  const int64_t channels = shape.group_in();
  std::vector<PackedMatrix> packed;
  for (int64_t g = 0; !is_low(b, shape) && g < shape.groups; ++g) {
    const std::string form = "group " + std::to_string(g) + used_taps(shape.window);
    packed.push_back(
        b.packed(1, shape.depth(), shape.group_out(), form, [&](int64_t row, int64_t column) {
          return shape.weight(g * shape.group_out() + column, row % channels, row / channels);
        }));
  }
  return packed;
}

}  // namespace

void emit_conv_rows(NodeBuilder& b, const ConvShape& shape, Slot y) {
  const Window& w = shape.window;
  const Source source = source_of(shape);
  const bool gathers = source == Source::kGather;
  const bool relays =
      source != Source::kInput && (w.pads() || (shape.channels > 1 && shape.plane() > 1));
  const int64_t images =
      gathers ? std::clamp<int64_t>(kRows / shape.positions(), 1, shape.images) : 1;
  const int64_t rows = gathers ? images * shape.positions() : std::min(kRows, shape.positions());
  const auto floats = [&](bool needed, int64_t n) {
    return needed ? b.scratch(n * int64_t{sizeof(float)}) : b.in(0).slot;
  };
  const int64_t across = w.columns.padded() * shape.channels;  // floats in a row of an image
  const StridedCopy relay(b, DType::kFloat32, {w.rows.in, w.columns.in, shape.channels},
                          {w.columns.in, 1, shape.plane()}, {across, shape.channels, 1});
  const Dims taken = {w.rows.out, w.columns.out, w.rows.kernel, w.columns.kernel, shape.group_in()};
  const StridedCopy gather(b, DType::kFloat32, taken,
                           {w.rows.stride * across, w.columns.stride * shape.channels,
                            w.rows.dilation * across, w.columns.dilation * shape.channels, 1},
                           row_major(taken));
  std::vector<const float*> bias;
  for (int64_t g = 0; b.has(2) && g < shape.groups; ++g) {
    bias.push_back(b.padded(2, shape.group_out(), 1, g * shape.group_out()));
  }
  b.emit(RowsConv{shape, source, relays, images, b.kernels().gemm, pack_weights(b, shape),
                  pack_low(b, shape, rows), bias, b.in(0).slot, y,
                  floats(relays, images * shape.channels * shape.padded_plane()),
                  floats(gathers, rows * shape.depth()),
                  floats(source != Source::kInput, rows * shape.outputs), relay, gather});
}

}  // namespace gruengine
