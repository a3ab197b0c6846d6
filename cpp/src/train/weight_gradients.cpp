// SPDX-License-Identifier: MIT
// Gradients of weights: products over all steps and rows at once. Each element is the sum, in
// order, of the chains of blocks of kRows rows.
#include <algorithm>

#include "train/recurrent.h"

namespace gruengine {
namespace {

// Rows whose panels of a and b stay in the first cache together: both have lines in the same sets.
constexpr int64_t kRows = 96;
// Sums that stay in the second cache while all rows go by.
constexpr int64_t kGroupFloats = 128 << 10;

ProductArgs columns_product(const float* a, int64_t lda, int64_t m, const WeightGradient& g,
                            int64_t block, int64_t row, int64_t rows, float* c) {
  const int64_t whole = g.form.whole(block);
  ProductArgs args{};
  args.m = m;
  args.n = g.form.used(block);
  args.k = rows;
  args.runs = 1;
  args.by_columns = true;
  args.a = a + row * lda;
  args.lda = lda;
  args.b = g.b + block * g.form.block_stride() + row * whole;
  args.nv = static_cast<int32_t>(whole / g.form.width);
  args.init = row == 0 ? nullptr : c;
  args.ldi = args.ldc = g.form.n;
  args.c = c;
  return args;
}

// dw of the units of a panel += what kRows rows from `row` give.
void add_panel(const RecurrentTraining::Impl& layer, const float* deltas, const WeightGradient& g,
               int64_t panel, int64_t row) {
  const int64_t V = layer.width(), H = layer.H, S = layer.layout.slots, rows = g.form.k;
  const int64_t count = std::min(kRows, rows - row);
  for (int64_t block = 0; block < g.form.blocks(); ++block) {
    for (int s = g.first; s < g.first + g.slots; ++s) {
      const float* a = deltas + panel * rows * S * V + s * V;
      float* c =
          g.dw + (layer.layout.gate[s] * H + panel * V) * g.form.n + block * g.form.columns();
      layer.kernels->train->product(
          columns_product(a, S * V, std::min(V, H - panel * V), g, block, row, count, c));
    }
  }
}

}  // namespace

void weight_gradients(const RecurrentTraining::Impl& layer, const float* deltas, int64_t rows,
                      const std::vector<WeightGradient>& wanted, float* sums, const Team& team) {
  const int64_t V = layer.width(), S = layer.layout.slots;
  const int64_t begin = team.begin(layer.panels()), end = team.end(layer.panels());
  for (int64_t panel = begin; panel < end; ++panel) {
    const float* from = deltas + panel * rows * S * V;
    layer.kernels->train->add_rows(from, rows, S * V, S * V, sums + panel * S * V);
  }
  for (const WeightGradient& g : wanted) {
    const int64_t group = std::max<int64_t>(1, kGroupFloats / (g.slots * V * g.form.n));
    for (int64_t first = begin; first < end; first += group) {
      for (int64_t row = 0; row < rows; row += kRows) {
        for (int64_t panel = first; panel < std::min(first + group, end); ++panel) {
          add_panel(layer, deltas, g, panel, row);
        }
      }
    }
  }
}

void transposed_product(const KernelTable& kernels, const float* a, int64_t lda, int64_t m,
                        const float* b, const TrainPanels& form, bool accumulate, float* c,
                        const Team& team) {
  constexpr int64_t kTile = 16;
  const WeightGradient g{b, form, 0, 1, c};
  const int64_t begin = team.begin(form.blocks()), end = team.end(form.blocks());
  for (int64_t row = 0; row < form.k; row += kRows) {
    const int64_t count = std::min(kRows, form.k - row);
    for (int64_t block = begin; block < end; ++block) {
      for (int64_t low = 0; low < m; low += kTile) {
        float* to = c + low * form.n + block * form.columns();
        ProductArgs args =
            columns_product(a + low, lda, std::min(kTile, m - low), g, block, row, count, to);
        if (accumulate) args.init = to;
        kernels.train->product(args);
      }
    }
  }
}

}  // namespace gruengine
