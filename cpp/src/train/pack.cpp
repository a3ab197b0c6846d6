// SPDX-License-Identifier: MIT
// Weights and activations in the panels that the products read. This is done anew in each pass,
// since the weights have changed.
#include <algorithm>
#include <cstring>

#include "train/recurrent.h"

namespace gruengine {

int32_t TrainPanels::nv() const {
  return static_cast<int32_t>(std::clamp<int64_t>((n + width - 1) / width, 1, 4));
}

void pack_gates(const RecurrentTraining::Impl& layer, const float* w, int64_t columns, int first,
                int slots, int64_t begin, int64_t end, float* to) {
  const int64_t V = layer.width(), H = layer.H, line = slots * V;
  for (int64_t panel = begin; panel < end; ++panel) {
    float* block = to + panel * columns * line;
    const int64_t units = std::min(V, H - panel * V);
    for (int s = 0; s < slots; ++s) {
      const float* from = w + (layer.layout.gate[first + s] * H + panel * V) * columns;
      // Few columns at a time, so that the lines written stay in the first cache.
      for (int64_t low = 0; low < columns; low += 16) {
        const int64_t high = std::min(columns, low + 16);
        for (int64_t u = 0; u < units; ++u) {
          for (int64_t i = low; i < high; ++i) block[i * line + s * V + u] = from[u * columns + i];
        }
        for (int64_t u = units; u < V; ++u) {
          for (int64_t i = low; i < high; ++i) block[i * line + s * V + u] = 0.0f;
        }
      }
    }
  }
}

void pack_gate_rows(const RecurrentTraining::Impl& layer, const float* w, const TrainPanels& form,
                    int first, int slots, int64_t begin, int64_t end, float* to) {
  const int64_t V = layer.width(), H = layer.H;
  for (int64_t block = begin; block < end; ++block) {
    const int64_t column = block * form.columns();
    const int64_t used = form.used(block), columns = form.whole(block);
    float* line = to + block * form.block_stride();
    for (int64_t row = 0; row < form.k; ++row, line += columns) {
      const int64_t unit = row / (slots * V) * V + row % V;
      const int gate = layer.layout.gate[first + row / V % slots];
      if (unit < H) {
        std::copy_n(w + (gate * H + unit) * form.n + column, used, line);
        std::fill(line + used, line + columns, 0.0f);
      } else {
        std::fill_n(line, columns, 0.0f);
      }
    }
  }
}

void pack_transposed(const float* from, const TrainPanels& form, int64_t begin, int64_t end,
                     float* to) {
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * form.columns();
    const int64_t used = form.used(block), whole = form.whole(block);
    float* panel = to + block * form.block_stride();
    // Few rows at a time, so that the lines written stay in the first cache.
    for (int64_t low = 0; low < form.k; low += 32) {
      const int64_t high = std::min(form.k, low + 32);
      for (int64_t j = 0; j < whole; ++j) {
        for (int64_t i = low; i < high; ++i) {
          panel[i * whole + j] = j < used ? from[(first + j) * form.k + i] : 0.0f;
        }
      }
    }
  }
}

void pack_rows(const float* from, int64_t ld, const TrainPanels& form, int64_t begin, int64_t end,
               float* to) {
  for (int64_t block = begin; block < end; ++block) {
    const int64_t column = block * form.columns();
    const int64_t used = form.used(block), columns = form.whole(block);
    float* line = to + block * form.block_stride();
    if (columns == ld) {  // the rows as they are
      std::copy_n(from, form.k * ld, line);
      continue;
    }
    for (int64_t row = 0; row < form.k; ++row, line += columns) {
      std::copy_n(from + row * ld + column, used, line);
      std::fill(line + used, line + columns, 0.0f);
    }
  }
}

}  // namespace gruengine
