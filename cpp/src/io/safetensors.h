// SPDX-License-Identifier: MIT
// The container of a model file: named tensors and strings, checked against the real bytes.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "gruengine/graph.h"

namespace gruengine {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr size_t kMaxRank = 32;

class JsonReader;

// How weights that stand for floats are kept (io/stored.h): BF16, I8, or U8 with two in a byte.
enum class Form { kBFloat16, kInt8, kNibbles };

struct StoredTensor {
  Form form = Form::kInt8;
  Dims dims;
  const uint8_t* data = nullptr;
};

struct Safetensors {
  std::map<std::string, Tensor> tensors;  // data point into the bytes, aligned or not
  std::map<std::string, StoredTensor> stored;
  std::map<std::string, std::string> metadata;
};

// Reads a whole file in memory; `bytes` must outlive the result.
// Throws Error(kInvalidFile) unless every tensor is F32, I64, I32, BOOL, BF16, I8 or U8, its
// bytes agree with its shape, and the tensors follow each other without holes or overlap up to the
// last byte.
Safetensors parse_safetensors(std::span<const uint8_t> bytes);

// Elements of `dims` times the element size. Throws Error(kInvalidFile) beyond 63 bits, even when
// another size is zero.
int64_t checked_bytes(const Dims& dims, DType dtype, const std::string& what);

// An array of up to `limit` sizes. Throws Error(kInvalidFile), which begins with `what`.
std::vector<int64_t> parse_sizes(JsonReader& json, size_t limit, const std::string& what);

}  // namespace gruengine
