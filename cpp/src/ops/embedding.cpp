// SPDX-License-Identifier: MIT
#include "ops/embedding.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "engine/low.h"
#include "ops/low_right.h"

namespace gruengine {
namespace {

void store_bfloat16(const float* from, int64_t n, char* to) {
  auto* values = reinterpret_cast<uint16_t*>(to);
  for (int64_t i = 0; i < n; ++i) values[i] = bfloat16_bits(from[i]);
}

void store_int8(const float* from, int64_t n, char* to) {
  const float scale = weight_scale(largest(from, n));
  std::memcpy(to, &scale, sizeof(scale));
  for (int64_t i = 0; i < n; ++i) {
    const float q = scale > 0.0f ? std::nearbyint(from[i] / scale) : 0.0f;
    to[sizeof(scale) + static_cast<size_t>(i)] = static_cast<char>(static_cast<int8_t>(q));
  }
}

}  // namespace

int64_t StoredRows::row_bytes(int64_t inner, bool scaled) {
  return ((scaled ? inner + 4 : inner * 2) + 3) / 4 * 4;
}

void StoredRows::look_up(const int64_t* rows, int64_t n, float* to) const {
  const int64_t bytes = row_bytes(inner, scaled);
  for (int64_t r = 0; r < n; ++r, to += inner) {
    const char* row = data + rows[r] * bytes;
    if (scaled) {
      float scale;
      std::memcpy(&scale, row, sizeof(scale));
      const auto* q = reinterpret_cast<const int8_t*>(row + sizeof(scale));
      for (int64_t i = 0; i < inner; ++i) to[i] = static_cast<float>(q[i]) * scale;
    } else {
      const auto* values = reinterpret_cast<const uint16_t*>(row);
      for (int64_t i = 0; i < inner; ++i) {
        to[i] = std::bit_cast<float>(static_cast<uint32_t>(values[i]) << 16);
      }
    }
  }
}

StoredRows stored_rows(const NodeBuilder& b, int axis) {
  const Value& table = b.in(0);
  const bool fits = table.constant != nullptr && table.dtype == DType::kFloat32 &&
                    table.dims.size() == 2 && axis == 0 && b.in(1).constant == nullptr;
  if (!fits || !is_low(b, table.dims[1], table.dims[0]) || b.low()->terms > 1) return {};
  StoredRows stored{nullptr, table.dims[1], b.low()->scaled};
  const int64_t bytes = StoredRows::row_bytes(stored.inner, stored.scaled);
  const float* data =
      b.derived(0, stored.scaled ? "rows int8" : "rows bfloat16", table.dims[0] * bytes / 4,
                [&](const float* from, float* to) {
                  auto* at = reinterpret_cast<char*>(to);
                  for (int64_t r = 0; r < table.dims[0]; ++r, from += stored.inner, at += bytes) {
                    stored.scaled ? store_int8(from, stored.inner, at)
                                  : store_bfloat16(from, stored.inner, at);
                  }
                });
  stored.data = reinterpret_cast<const char*>(data);
  return stored;
}

}  // namespace gruengine
