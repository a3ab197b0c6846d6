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
// Threads that a run of this thread can use now: the least of its CPU affinity, the limits of its
// cgroups, OMP_NUM_THREADS and OMP_THREAD_LIMIT; 1 in a child of a process that had run in
// parallel.
GRUENGINE_API int max_threads();

}  // namespace gruengine
