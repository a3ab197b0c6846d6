// SPDX-License-Identifier: MIT
// A model at fixed shapes, run on memory of the caller. Every input and output is explicit, states
// like any other; nothing is allocated by a run.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "gruengine/export.h"
#include "gruengine/model.h"

namespace gruengine {

// Belongs to one caller at a time.
class GRUENGINE_API Call {
 public:
  // `inputs`: the shape of each input of the model. `lengths`: every run gets the frames of each
  // row. Throws Error(kInvalidArgument) when the shapes are not the model's.
  Call(std::shared_ptr<const Model> model, const std::vector<Dims>& inputs, bool lengths);
  ~Call();

  const std::vector<Dims>& outputs() const { return outputs_; }
  int64_t bytes() const;  // of its own memory

  // inputs[i], outputs[i]: contiguous arrays of the shapes above, none overlapping an output.
  // `lengths`: [N], each from 0 to T and not checked; nullptr unless the call was made for them.
  void run(const void* const* inputs, void* const* outputs, const int64_t* lengths);

 private:
  struct Impl;
  Call(const Call&) = delete;
  std::unique_ptr<Impl> impl_;
  std::vector<Dims> outputs_;
};

}  // namespace gruengine
