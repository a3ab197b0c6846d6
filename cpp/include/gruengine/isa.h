// SPDX-License-Identifier: MIT
// Instruction sets: what this binary has, what this CPU supports, what is in force.
#pragma once

#include <string>
#include <vector>

#include "gruengine/export.h"

namespace gruengine {

struct IsaStatus {
  std::string name;
  std::string floats;  // the set whose float32 kernels it runs
  bool supported;
  std::string reason;  // what is missing when not supported
};

GRUENGINE_API std::vector<IsaStatus> available_isas();
GRUENGINE_API std::string current_isa();
GRUENGINE_API std::string isa_choice();
// "" returns to the default choice. Throws Error(kInvalidArgument).
GRUENGINE_API void force_isa(const std::string& name);
// Threads that parallel regions can use now: 1 in a child of a process that had run one.
GRUENGINE_API int max_threads();
GRUENGINE_API bool built_with_openmp();

}  // namespace gruengine
