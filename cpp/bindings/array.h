// SPDX-License-Identifier: MIT
// Float32 NumPy arrays as the training calls take them: checked, and read or written where they
// lie.
#pragma once

#include <pybind11/numpy.h>

#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "gruengine/error.h"

namespace gruengine {

using Shape = std::vector<pybind11::ssize_t>;
using OptionalArray = std::optional<pybind11::array>;

inline std::string shown(const pybind11::ssize_t* dims, size_t rank) {
  std::string text = "[";
  for (size_t i = 0; i < rank; ++i) text += (i == 0 ? "" : ", ") + std::to_string(dims[i]);
  return text + "]";
}

// Throws Error(kInvalidType) unless the array is C-contiguous and of T.
template <class T>
const T* elements(const pybind11::array& array, const char* name) {
  if (!array.dtype().is(pybind11::dtype::of<T>()) &&
      !array.dtype().equal(pybind11::dtype::of<T>())) {
    throw Error(ErrorCode::kInvalidType,
                std::string(name) + " has dtype " + std::string(pybind11::str(array.dtype())) +
                    "; it must be " + std::string(pybind11::str(pybind11::dtype::of<T>())));
  }
  if ((array.flags() & pybind11::array::c_style) == 0) {
    throw Error(ErrorCode::kInvalidType, std::string(name) + " is not C-contiguous");
  }
  return static_cast<const T*>(array.data());
}

template <class T>
T* writable(pybind11::array& array, const char* name) {
  elements<T>(array, name);
  if (!array.writeable()) {
    throw Error(ErrorCode::kInvalidArgument, std::string(name) + " is read-only");
  }
  return static_cast<T*>(array.mutable_data());
}

inline void expect_rank(const pybind11::array& array, const char* name, int rank,
                        const char* form) {
  if (array.ndim() == rank) return;
  throw Error(ErrorCode::kInvalidArgument,
              std::string(name) + " has shape " +
                  shown(array.shape(), static_cast<size_t>(array.ndim())) + "; it must be " + form);
}

inline void expect_shape(const pybind11::array& array, const char* name, const Shape& shape) {
  const auto rank = static_cast<size_t>(array.ndim());
  if (rank == shape.size() && std::equal(shape.begin(), shape.end(), array.shape())) return;
  throw Error(ErrorCode::kInvalidArgument, std::string(name) + " has shape " +
                                               shown(array.shape(), rank) + "; it must be " +
                                               shown(shape.data(), shape.size()));
}

// The floats of an array of exactly this shape; nullptr for None.
inline const float* floats(const OptionalArray& array, const char* name, const Shape& shape) {
  if (!array) return nullptr;
  expect_shape(*array, name, shape);
  return elements<float>(*array, name);
}

inline pybind11::array_t<float> new_floats(const Shape& shape) {
  return pybind11::array_t<float>(shape);
}

}  // namespace gruengine
