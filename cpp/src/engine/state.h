// SPDX-License-Identifier: MIT
// The state block of a stateful plan.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/engine.h"

namespace gruengine {

std::vector<StateEntry> entries_of(const Plan& plan);
// Fills a state block with the initial state.
void reset_state(const Plan& plan, char* block);
// Lengths must be one for each row of the batch and lie in [0, T].
void check_lengths(const Engine& engine, const PlanRequest& request, const int64_t* lengths,
                   int64_t rows);

// Versioned bytes that belong to one model and one layout.
std::vector<uint8_t> pack_state(const std::string& model_hash, const Plan& plan, const char* block);
// Throws Error(kInvalidArgument) and leaves the block alone when the bytes belong elsewhere.
void unpack_state(const std::string& model_hash, const Plan& plan, const uint8_t* bytes,
                  size_t size, char* block);

}  // namespace gruengine
