// SPDX-License-Identifier: MIT
// Weights that a file keeps in bfloat16, or in int8 with scales, as the floats they stand for.
#pragma once

#include <string>

#include "io/safetensors.h"

namespace gruengine {

// Writes the floats of `stored` to `to`. An int8 tensor is its integers times `scale`, a float32
// tensor of the same rank whose sizes are those of the tensor, 1, or one for each 32; a bfloat16
// tensor has none. Throws Error(kInvalidFile) naming the tensor.
void expand_stored(const std::string& name, const StoredTensor& stored, const Tensor* scale,
                   float* to);

}  // namespace gruengine
