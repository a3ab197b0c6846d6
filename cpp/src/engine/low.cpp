// SPDX-License-Identifier: MIT
#include "engine/low.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

namespace gruengine {
namespace {

float high_part(float x) {
  return std::bit_cast<float>(static_cast<uint32_t>(bfloat16_bits(x)) << 16);
}
// What the high part leaves; nothing where that is not finite.
float low_part(float x) {
  const float high = high_part(x);
  return std::isfinite(high) ? x - high : 0.0f;
}

// One block of `columns` columns, whose first is `first`, and the rows [top, top + k).
struct Block {
  const LowType& low;
  const WeightAt& at;
  int64_t top, k, first, columns, n;

  float weight(int64_t row, int64_t column) const {
    if (first + column >= n) return 0.0f;
    const int64_t part = padded_rows(low, k);
    if (row % part >= k) return 0.0f;
    const float* weight = at(top + row % part, first + column);
    if (weight == nullptr) return 0.0f;
    return row < part ? *weight : low_part(*weight);
  }
  int64_t place(int64_t row, int64_t column) const {
    return (row / low.group * columns + column) * low.group + row % low.group;
  }

  void pack_bfloat16(char* to) const {
    auto* weights = reinterpret_cast<uint16_t*>(to);
    for (int64_t row = 0; row < low.depth(k); ++row) {
      for (int64_t c = 0; c < columns; ++c) {
        weights[place(row, c)] = bfloat16_bits(weight(row, c));
      }
    }
  }

  void pack_int8(char* to) const {
    auto* scales = reinterpret_cast<float*>(to);
    auto* starts = reinterpret_cast<int32_t*>(to) + columns;
    auto* weights = reinterpret_cast<int8_t*>(to + columns * 8);
    for (int64_t c = 0; c < columns; ++c) {
      float largest = 0.0f;
      for (int64_t row = 0; row < k && !std::isnan(largest); ++row) {
        const float x = std::fabs(weight(row, c));
        largest = std::isfinite(x) ? std::max(largest, x) : std::numeric_limits<float>::quiet_NaN();
      }
      const float scale = scales[c] = weight_scale(largest);
      int32_t sum = 0;
      for (int64_t row = 0; row < k && scale > 0.0f; ++row) {
        const float q = std::nearbyint(weight(row, c) / scale);
        sum += static_cast<int32_t>(q);
        weights[place(row, c)] = static_cast<int8_t>(q);
      }
      starts[c] = -low.zero_point * sum;
    }
  }

  void pack_int4(char* to) const {
    auto* scales = reinterpret_cast<uint16_t*>(to);
    const int64_t sections = padded_rows(low, k) / low.section;
    auto* weights = reinterpret_cast<uint8_t*>(to) + sections * columns * 2;
    std::vector<float> of_section(static_cast<size_t>(low.section));
    for (int64_t s = 0; s < sections; ++s) {
      for (int64_t c = 0; c < columns; ++c) {
        for (int64_t i = 0; i < low.section; ++i) {
          const int64_t row = s * low.section + i;
          of_section[static_cast<size_t>(i)] = row < k ? weight(row, c) : 0.0f;
        }
        const float scale = int4_scale(largest(of_section.data(), low.section));
        scales[s * columns + c] = bfloat16_bits(scale);
        for (int64_t i = 0; i < low.section; ++i) {
          const float q = scale > 0.0f ? of_section[static_cast<size_t>(i)] / scale : 0.0f;
          const auto bits = static_cast<uint32_t>(std::nearbyint(q) + 8.0f);
          uint8_t& at = weights[(((s * low.section + i) / 8) * columns + c) * 4 + i % 4];
          at = static_cast<uint8_t>(at | bits << (i % 8 / 4 * 4));
        }
      }
    }
  }
};

constexpr std::pair<const char*, ComputeType> kComputeTypes[] = {
    {"float32", ComputeType::kFloat32}, {"bfloat16", ComputeType::kBfloat16},
    {"int8", ComputeType::kInt8},       {"bf16x3", ComputeType::kBf16x3},
    {"int4", ComputeType::kInt4},
};

}  // namespace

const char* name_of(ComputeType type) {
  for (const auto& [name, known] : kComputeTypes) {
    if (known == type) return name;
  }
  return "";
}

ComputeType compute_type_named(const std::string& name) {
  std::string names;
  for (const auto& [known, type] : kComputeTypes) {
    if (name == known) return type;
    names += (names.empty() ? "" : ", ") + std::string(known);
  }
  throw Error(ErrorCode::kInvalidArgument,
              "compute_type '" + name + "' is unknown; it must be one of " + names);
}

std::optional<LowType> low_type(const KernelTable& table, ComputeType type) {
  switch (type) {
    case ComputeType::kBfloat16:
      return LowType{table.low->bfloat16, 1};
    case ComputeType::kInt8:
      return LowType{table.low->int8, 1};
    case ComputeType::kInt4:
      return LowType{table.low->int4, 1};
    case ComputeType::kBf16x3:
      return LowType{table.low->bfloat16, 3};
    default:
      return std::nullopt;
  }
}

std::optional<LowType> low_type_of_convolutions(const KernelTable& table, ComputeType type) {
  const bool few = type == ComputeType::kInt8 || type == ComputeType::kInt4;
  return low_type(table, few ? ComputeType::kBfloat16 : type);
}

float largest(const float* values, int64_t n) {
  float most = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(values[i])) return std::numeric_limits<float>::quiet_NaN();
    most = std::max(most, std::fabs(values[i]));
  }
  return most;
}

float weight_scale(float most) {
  if (!(most > 1e-30f)) return std::isnan(most) ? most : 0.0f;
  // Seven bits of the mantissa make room for the bits of an integer, so rounding goes up.
  const auto bits = std::bit_cast<uint32_t>(most / 127.0f);
  return std::bit_cast<float>((bits + 0x7fu) & ~0x7fu);
}

float int4_scale(float most) {
  if (!(most > 1e-30f)) return std::isnan(most) ? most : 0.0f;
  return std::bit_cast<float>((std::bit_cast<uint32_t>(most / 7.0f) + 0xffffu) & ~0xffffu);
}

int64_t low_bytes(const LowType& low, const std::vector<int64_t>& parts, int64_t n, int width) {
  int64_t bytes = 0;
  for (const int64_t k : parts)
    bytes += block_bytes(low, low.depth(k), (n + width - 1) / width * width);
  return bytes;
}

void pack_low(const LowType& low, const std::vector<int64_t>& parts, int64_t n, int32_t nv,
              int width, const WeightAt& at, char* to) {
  const int64_t vectors = (n + width - 1) / width;
  for (int64_t first = 0; first < vectors; first += nv) {
    const int64_t columns = std::min<int64_t>(nv, vectors - first) * width;
    int64_t top = 0;
    for (size_t part = 0; part < parts.size(); ++part) {
      const Block block{low, at, top, parts[part], first * width, columns, n};
      if (low.section > 0) {
        block.pack_int4(to);
      } else if (low.scaled) {
        block.pack_int8(to);
      } else {
        block.pack_bfloat16(to);
      }
      to += block_bytes(low, low.depth(parts[part]), columns);
      top += parts[part];
    }
  }
}

LowRows LowBuffer::prepare(const float* from, int64_t ld, int64_t count, char* to) const {
  auto* scale = low->scaled ? reinterpret_cast<float*>(to + rows * stride()) : nullptr;
  low->prepare({count, k, from, ld, 0.0f, to, stride(), scale, low->terms});
  return {to, stride(), scale};
}

}  // namespace gruengine
