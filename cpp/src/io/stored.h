// SPDX-License-Identifier: MIT
// Weights that a file keeps in bfloat16, or as integers with scales, as the floats they stand for.
#pragma once

#include <string>

#include "io/safetensors.h"

namespace gruengine {

// Gives `stored`, bytes of two weights each, the shape of its weights. Throws Error(kInvalidFile)
// unless there are as many bytes as it takes, and nothing in half a byte to spare.
void shape_nibbles(const std::string& name, const Dims& shape, StoredTensor& stored);

// Writes the floats of `stored` to `to`. Integers are multiplied by `scale`, a float32 tensor of
// the same rank whose sizes are those of the tensor, 1, or one for each 32; a bfloat16 tensor has
// none. Throws Error(kInvalidFile) naming the tensor.
void expand_stored(const std::string& name, const StoredTensor& stored, const Tensor* scale,
                   float* to);

}  // namespace gruengine
