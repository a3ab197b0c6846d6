// SPDX-License-Identifier: MIT
// What this Arm CPU lacks for each instruction set; see cmake/isa.cmake.
#include "isa/detect.h"

#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace gruengine {

const char* missing_scalar() { return ""; }

// NEON is part of every 64-bit Arm CPU.
const char* missing_neon() { return ""; }

const char* missing_neondot() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0 ? "" : "this CPU has no dot products";
#elif defined(__APPLE__)
  return "";
#else
  return "dot products cannot be detected on this system";
#endif
}

}  // namespace gruengine
