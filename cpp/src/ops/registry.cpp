// SPDX-License-Identifier: MIT
#include <unordered_map>

#include "ops/ops.h"

namespace gruengine {

PlanFunction find_op(const std::string& name) {
  static const std::unordered_map<std::string, PlanFunction> ops = {
#define GRU_OP(name, function) {name, function},
#include "ops/ops.inc"
#undef GRU_OP
  };
  const auto found = ops.find(name);
  return found == ops.end() ? nullptr : found->second;
}

}  // namespace gruengine
