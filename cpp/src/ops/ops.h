// SPDX-License-Identifier: MIT
// The planning functions of all operators, and what the families share.
#pragma once

#include <string>
#include <vector>

#include "engine/op.h"

namespace gruengine {

#define GRU_OP(name, function) void function(NodeBuilder& b);
#include "ops/ops.inc"
#undef GRU_OP

// An attribute that is a number, written as an integer or not.
double number(const NodeBuilder& b, const std::string& name, double otherwise);

// "Add 'name'": how errors found while the plan runs call the node.
std::string label(const NodeBuilder& b);

// `axes` (of a result of that rank) made non-negative and ascending; refuses duplicates.
std::vector<int> normal_axes(const NodeBuilder& b, const std::vector<int64_t>& axes, size_t rank);

// Product of dims[first, last).
int64_t product(const Dims& dims, size_t first, size_t last);

// -- time -------------------------------------------------------------------------------------

// The time of input i seen with other sizes: the time axis must stay an axis of its own.
Time view_time(const NodeBuilder& b, size_t i, const Dims& dims);

// The time of input i, which the operator combines along `axis`: reported, and no longer a time of
// frames, when that is its time axis.
Time time_along(const NodeBuilder& b, size_t i, int axis, const char* what);

// The time of a result that depends on two values whose axes are already those of the result.
Time merge_times(const NodeBuilder& b, Time one, Time other);

// The axis of `dims` with the marked number of frames, as a time; kConstant when there is none.
Time marked_time(const NodeBuilder& b, const Dims& dims);

// Whether the elements of a constant input depend on the number of frames.
bool counts_frames(const Value& value);

// Reports inputs that hold the number of frames and meet data that does not.
void check_data(const NodeBuilder& b, const std::vector<size_t>& inputs);

}  // namespace gruengine
