// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <string>

#include "isa/table.h"

namespace gruengine {

// The function that ONNX calls `name`.
inline std::optional<Function> function_named(const std::string& name) {
#define GRU_FUNCTION(function, onnx_name) \
  if (name == onnx_name) return Function::k##function;
#include "isa/functions.inc"
#undef GRU_FUNCTION
  return std::nullopt;
}

}  // namespace gruengine
