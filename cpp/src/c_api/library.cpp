// SPDX-License-Identifier: MIT
#include <cstddef>

#include "c_api/handles.h"
#include "gruengine/allocator.h"
#include "gruengine/isa.h"
#include "gruengine/version.h"

using gruengine::c_api::guarded;

const char* gru_version(void) noexcept { return gruengine::version(); }

int32_t gru_abi_version(void) noexcept { return GRU_ABI_VERSION; }

const char* gru_isa(void) noexcept {
  thread_local std::string name;
  const gru_status status = guarded([] { name = gruengine::current_isa(); });
  return status == GRU_OK ? name.c_str() : nullptr;
}

gru_status gru_force_isa(const char* name) noexcept {
  return guarded([&] { gruengine::force_isa(name == nullptr ? "" : name); });
}

int32_t gru_max_threads(void) noexcept { return gruengine::max_threads(); }

size_t gru_dtype_size(gru_dtype dtype) noexcept {
  if (dtype < GRU_FLOAT32 || dtype > GRU_BOOL) return 0;
  return static_cast<size_t>(gruengine::size_of(static_cast<gruengine::DType>(dtype)));
}

gru_status gru_set_allocator(const gru_allocator* allocator) noexcept {
  return guarded([&] {
    gru_allocator given{};
    if (allocator != nullptr) {
      gruengine::c_api::copy_struct(&given, sizeof given, allocator, allocator->size,
                                    "gru_allocator");
    }
    gruengine::set_allocator({given.allocate, given.release, given.user});
  });
}
