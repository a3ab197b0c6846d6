// SPDX-License-Identifier: MIT
// What this Arm CPU lacks for each instruction set; see cmake/isa.cmake.
#include "isa/detect.h"

namespace gruengine {

const char* missing_scalar() { return ""; }

// NEON is part of every 64-bit Arm CPU.
const char* missing_neon() { return ""; }

}  // namespace gruengine
