// SPDX-License-Identifier: MIT
// Products of bytes beside AMX: every CPU that has it has AVX-512 VNNI.
#pragma once

#include "kernels/dot_avx512vnni.h"
