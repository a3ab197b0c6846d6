// SPDX-License-Identifier: MIT
#pragma once

#include "engine/low.h"
#include "gruengine/training_math.h"

namespace gruengine {

// matmul() in a compute type below float32.
void low_matmul(const Matmul& product, const KernelTable& table, const LowType& low, int threads);

}  // namespace gruengine
