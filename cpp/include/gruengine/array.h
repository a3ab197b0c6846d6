// SPDX-License-Identifier: MIT
// Arrays of the caller, seen by the engine, and arrays that a run returns.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "gruengine/error.h"
#include "gruengine/graph.h"

namespace gruengine {

// The DType of float, int64_t, int32_t or bool.
template <class T>
constexpr DType dtype_for() {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, int64_t> ||
                    std::is_same_v<T, int32_t> || std::is_same_v<T, bool>,
                "arrays hold float, int64_t, int32_t or bool");
  if constexpr (std::is_same_v<T, float>) return DType::kFloat32;
  if constexpr (std::is_same_v<T, int64_t>) return DType::kInt64;
  if constexpr (std::is_same_v<T, int32_t>) return DType::kInt32;
  return DType::kBool;
}

// Bytes of somebody else's: row-major, contiguous.
struct ConstView {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  Dims dims;
};

// `data` seen as an array of these sizes. Throws Error(kInvalidArgument) when they do not fit.
template <class T>
ConstView view(std::span<const T> data, Dims dims) {
  int64_t count = 1;
  for (const int64_t size : dims) count *= size;
  if (count != static_cast<int64_t>(data.size())) {
    throw Error(ErrorCode::kInvalidArgument, "a view of " + std::to_string(data.size()) +
                                                 " elements has sizes for " +
                                                 std::to_string(count));
  }
  return {data.data(), dtype_for<T>(), std::move(dims)};
}
template <class T>
ConstView view(const std::vector<T>& data, Dims dims) {
  return view(std::span<const T>(data), std::move(dims));
}

// An array with memory of its own, row-major.
struct Array {
  DType dtype = DType::kFloat32;
  Dims dims;
  std::vector<uint64_t> memory;  // of 8 bytes each: aligned for every dtype

  // The elements. Throws Error(kInvalidType) when they are of another type.
  template <class T>
  std::span<const T> as() const {
    if (dtype != dtype_for<T>()) {
      throw Error(ErrorCode::kInvalidType, std::string("the array holds ") + name_of(dtype) +
                                               "; asked for " + name_of(dtype_for<T>()));
    }
    return {reinterpret_cast<const T*>(memory.data()), size()};
  }
  size_t size() const {
    size_t count = 1;
    for (const int64_t dim : dims) count *= static_cast<size_t>(dim);
    return count;
  }
  // Memory for an array of this type and these sizes.
  void* prepare(DType type, const Dims& sizes) {
    dtype = type;
    dims = sizes;
    memory.resize((size() * static_cast<size_t>(size_of(type)) + 7) / 8);
    return memory.data();
  }
  ConstView view() const { return {memory.data(), dtype, dims}; }
};

}  // namespace gruengine
