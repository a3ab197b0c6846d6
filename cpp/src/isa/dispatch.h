// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "isa/table.h"

namespace gruengine {

// One instruction set this binary was built with.
struct IsaInfo {
  const char* name;
  const char* floats;  // the set whose float32 kernels it runs: its own name or another
  bool supported;      // by this CPU and its operating system
  const char* reason;  // what is missing when not supported, else ""
  const KernelTable* table;
};

// All instruction sets of the build, from the plainest to the most capable.
const std::vector<IsaInfo>& isa_list();

// The table in force: forced by force_isa(), else GRUENGINE_ISA, else the most capable supported
// one. Throws Error(kInvalidArgument) when GRUENGINE_ISA names an unknown or unsupported set.
const KernelTable& kernels();

// Why kernels() is what it is: "forced by gr.isa", "forced by GRUENGINE_ISA", "best supported".
std::string isa_choice();

// Forces an instruction set for models loaded from now on in this process; "" returns to the
// default. Throws Error(kInvalidArgument) naming the supported ones.
void force_isa(const std::string& name);

}  // namespace gruengine
