// SPDX-License-Identifier: MIT
#include "engine/weights.h"

#include <algorithm>

namespace gruengine {
namespace {

void pack(float* to, int64_t k, int64_t n, int32_t nv, int width, const WeightAt& at) {
  const int64_t vectors = (n + width - 1) / width;
  for (int64_t first = 0; first < vectors; first += nv) {
    const int64_t columns = std::min<int64_t>(nv, vectors - first) * width;
    for (int64_t row = 0; row < k; ++row) {
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t column = first * width + j;
        const float* weight = column < n ? at(row, column) : nullptr;
        *to++ = weight != nullptr ? *weight : 0.0f;
      }
    }
  }
}

}  // namespace

const PackedMatrix& WeightStore::matrix(const std::string& key, int64_t k, int64_t n, int32_t nv,
                                        int width, const WeightAt& at) {
  const std::lock_guard lock(mutex_);
  const auto found = matrices_.find(key);
  if (found != matrices_.end()) return found->second;
  const int64_t vectors = (n + width - 1) / width;
  auto* data = reinterpret_cast<float*>(arena_.take(k * vectors * width * int64_t{sizeof(float)}));
  pack(data, k, n, nv, width, at);
  return matrices_[key] = PackedMatrix{data, k, n, nv, k * nv * width};
}

const LowMatrix& WeightStore::low_matrix(const std::string& key, const LowType& low,
                                         const std::vector<int64_t>& parts, int64_t n, int32_t nv,
                                         int width, const WeightAt& at) {
  const std::lock_guard lock(mutex_);
  const auto found = low_matrices_.find(key);
  if (found != low_matrices_.end()) return found->second;
  char* data = arena_.take(low_bytes(low, parts, n, width));
  pack_low(low, parts, n, nv, width, at, data);
  LowMatrix matrix{data, 0, n, nv, 0};
  for (const int64_t k : parts) {
    matrix.k += k;
    matrix.block_stride += block_bytes(low, low.depth(k), int64_t{nv} * width);
  }
  return low_matrices_[key] = matrix;
}

const float* WeightStore::floats(const std::string& key, int64_t size,
                                 const std::function<void(float*)>& fill) {
  const std::lock_guard lock(mutex_);
  const auto found = floats_.find(key);
  if (found != floats_.end()) return found->second;
  auto* data = reinterpret_cast<float*>(arena_.take(size * int64_t{sizeof(float)}));
  fill(data);
  return floats_[key] = data;
}

}  // namespace gruengine
