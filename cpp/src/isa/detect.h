// SPDX-License-Identifier: MIT
#pragma once

namespace gruengine {

// missing_<isa>(): what keeps this machine from running an instruction set, as the end of a
// sentence; "" when nothing does. detect_<architecture>.cpp defines one for each row of isa.cmake.
#define GRU_ISA_ROW(name, base) const char* missing_##name();
#include "isa_list.inc"
#undef GRU_ISA_ROW

}  // namespace gruengine
