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

// Where the scale of each element lies: strides are zero along axes of size 1.
std::vector<int64_t> scale_strides(const std::string& name, const Dims& dims, const Tensor& scale) {
  if (scale.dtype != DType::kFloat32 || scale.dims.size() != dims.size()) {
    refuse(name, "needs a float32 scale with as many axes");
  }
  std::vector<int64_t> strides(dims.size());
  int64_t step = 1;
  for (size_t i = dims.size(); i-- > 0;) {
    if (scale.dims[i] != dims[i] && scale.dims[i] != 1) {
      refuse(name, "has a scale whose sizes are neither its own nor 1");
    }
    strides[i] = scale.dims[i] == 1 ? 0 : step;
    step *= scale.dims[i];
  }
  return strides;
}

}  // namespace

void expand_stored(const std::string& name, const StoredTensor& stored, const Tensor* scale,
                   float* to) {
  const int64_t n = checked_bytes(stored.dims, DType::kBool, "tensor " + quoted(name));
  if (stored.bfloat16 != (scale == nullptr)) {
    refuse(name, stored.bfloat16 ? "is BF16 with a scale" : "is I8 without a scale");
  }
  if (stored.bfloat16) {
    for (int64_t i = 0; i < n; ++i) {
      uint16_t bits;
      std::memcpy(&bits, stored.data + i * 2, sizeof(bits));
      to[i] = std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
    }
    return;
  }
  const std::vector<int64_t> strides = scale_strides(name, stored.dims, *scale);
  const auto* scales = static_cast<const uint8_t*>(scale->data);
  std::vector<int64_t> at(stored.dims.size());
  int64_t place = 0;
  for (int64_t i = 0; i < n; ++i) {
    const auto q = static_cast<int8_t>(stored.data[i]);
    const float s = float_at(scales, place);
    if (!(s >= 0) || !std::isfinite(s * 128.0f)) refuse(name, "has a scale that is no size");
    to[i] = static_cast<float>(q) * s;
    for (size_t axis = at.size(); axis-- > 0;) {
      place += strides[axis];
      if (++at[axis] < stored.dims[axis]) break;
      place -= strides[axis] * stored.dims[axis];
      at[axis] = 0;
    }
  }
}

}  // namespace gruengine
