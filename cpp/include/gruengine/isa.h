// SPDX-License-Identifier: MIT
// Instruction sets: what this binary has, what this CPU supports, what is in force.
#pragma once

#include <string>
#include <vector>

namespace gruengine {

struct IsaStatus {
  std::string name;
  bool supported;
  std::string reason;  // what is missing when not supported
};

std::vector<IsaStatus> available_isas();
std::string current_isa();
std::string isa_choice();
// "" returns to the default choice. Throws Error(kInvalidArgument).
void force_isa(const std::string& name);
// Threads that parallel regions can use now: 1 in a child of a process that had run one.
int max_threads();
bool built_with_openmp();

}  // namespace gruengine
