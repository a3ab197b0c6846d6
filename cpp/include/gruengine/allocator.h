// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include "gruengine/export.h"

namespace gruengine {

// Where weights, states and working memory come from. Small bookkeeping objects use operator new.
struct Allocator {
  // Memory aligned to `alignment`, a power of two; nullptr when there is none. Any thread.
  void* (*allocate)(size_t bytes, size_t alignment, void* user) = nullptr;
  void (*release)(void* memory, size_t bytes, void* user) = nullptr;
  void* user = nullptr;
};

// For memory taken from now on; memory goes back to where it came from. An empty Allocator means
// the C library's. Throws Error(kInvalidArgument) when only one of the functions is given.
GRUENGINE_API void set_allocator(const Allocator& allocator);

}  // namespace gruengine
