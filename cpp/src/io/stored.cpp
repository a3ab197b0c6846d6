// SPDX-License-Identifier: MIT
#include "io/stored.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "gruengine/error.h"
#include "io/json.h"

namespace gruengine {
namespace {

[[noreturn]] void refuse(const std::string& name, const std::string& what) {
  throw Error(ErrorCode::kInvalidFile, "tensor " + quoted(name) + " " + what);
}

float float_at(const uint8_t* data, int64_t i) {
  float value;
  std::memcpy(&value, data + i * 4, sizeof(value));
  return value;
}

constexpr int64_t kSection = 32;

// Where the scale of element i along an axis lies: (i / each) * stride.
struct ScaleAxis {
  int64_t each, stride;
};

std::vector<ScaleAxis> scale_axes(const std::string& name, const Dims& dims, const Tensor& scale) {
  if (scale.dtype != DType::kFloat32 || scale.dims.size() != dims.size()) {
    refuse(name, "needs a float32 scale with as many axes");
  }
  std::vector<ScaleAxis> axes(dims.size());
  int64_t step = 1;
  for (size_t i = dims.size(); i-- > 0;) {
    const bool sections = scale.dims[i] == (dims[i] + kSection - 1) / kSection;
    if (scale.dims[i] != dims[i] && scale.dims[i] != 1 && !sections) {
      refuse(name, "has a scale whose sizes are neither its own, nor 1, nor one for each 32");
    }
    axes[i] = {scale.dims[i] == dims[i] ? 1 : kSection, scale.dims[i] == 1 ? 0 : step};
    step *= scale.dims[i];
  }
  return axes;
}

// Element i of a tensor of integers. Two in a byte: the first is the low half.
int8_t integer_at(const StoredTensor& stored, int64_t i) {
  if (stored.form == Form::kInt8) return static_cast<int8_t>(stored.data[i]);
  const int half = stored.data[i / 2] >> (i % 2 * 4) & 0xF;
  return static_cast<int8_t>((half ^ 8) - 8);
}

}  // namespace

void shape_nibbles(const std::string& name, const Dims& shape, StoredTensor& stored) {
  if (stored.form != Form::kNibbles) refuse(name, "has a shape of nibbles; allowed: those of U8");
  const int64_t n = checked_bytes(shape, DType::kBool, "tensor " + quoted(name));
  const int64_t bytes = n / 2 + n % 2;
  if (stored.dims != Dims{bytes}) {
    refuse(name, "has no shape [" + std::to_string(bytes) + "], as " + std::to_string(n) +
                     " nibbles have");
  }
  if (n % 2 == 1 && stored.data[bytes - 1] >> 4 != 0) refuse(name, "has a nibble too many");
  stored.dims = shape;
}

void expand_stored(const std::string& name, const StoredTensor& stored, const Tensor* scale,
                   float* to) {
  const int64_t n = checked_bytes(stored.dims, DType::kBool, "tensor " + quoted(name));
  const bool bfloat16 = stored.form == Form::kBFloat16;
  if (bfloat16 != (scale == nullptr)) {
    refuse(name, bfloat16 ? "is BF16 with a scale" : "is of integers without a scale");
  }
  if (bfloat16) {
    for (int64_t i = 0; i < n; ++i) {
      uint16_t bits;
      std::memcpy(&bits, stored.data + i * 2, sizeof(bits));
      to[i] = std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
    }
    return;
  }
  const std::vector<ScaleAxis> axes = scale_axes(name, stored.dims, *scale);
  const auto* scales = static_cast<const uint8_t*>(scale->data);
  std::vector<int64_t> at(stored.dims.size());
  int64_t place = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float s = float_at(scales, place);
    if (!(s >= 0) || !std::isfinite(s * 128.0f)) refuse(name, "has a scale that is no size");
    to[i] = static_cast<float>(integer_at(stored, i)) * s;
    for (size_t axis = at.size(); axis-- > 0;) {
      const auto [each, stride] = axes[axis];
      const int64_t section = at[axis] / each;
      if (++at[axis] < stored.dims[axis]) {
        place += (at[axis] / each - section) * stride;
        break;
      }
      place -= section * stride;
      at[axis] = 0;
    }
  }
}

}  // namespace gruengine
