// SPDX-License-Identifier: MIT
// What every kernel header needs. Kernels are compiled once per instruction set, so everything here
// has internal linkage: an inline function shared between objects could bring the instructions of a
// newer set into the code of an older one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa/table.h"

#if !defined(GRU_ISA)
#error "GRU_ISA must name the instruction set; see cmake/isa.cmake"
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define GRU_INLINE static __forceinline
#define GRU_NOINLINE static __declspec(noinline)
#define GRU_UNROLL
#elif defined(__clang__)
#define GRU_INLINE static inline __attribute__((always_inline))
#define GRU_NOINLINE static __attribute__((noinline))
#define GRU_UNROLL _Pragma("clang loop unroll(full)")
#else
#define GRU_INLINE static inline __attribute__((always_inline))
#define GRU_NOINLINE static __attribute__((noinline))
#define GRU_UNROLL _Pragma("GCC unroll 32")
#endif

// The same for members, which "static" would make static.
#if defined(_MSC_VER) && !defined(__clang__)
#define GRU_ALWAYS_INLINE __forceinline
#define GRU_NEVER_INLINE __declspec(noinline)
#else
#define GRU_ALWAYS_INLINE inline __attribute__((always_inline))
#define GRU_NEVER_INLINE __attribute__((noinline))
#endif

#if defined(__GNUC__)
#define GRU_PREFETCH_L1(p) __builtin_prefetch(p, 0, 3)
#define GRU_PREFETCH_L2(p) __builtin_prefetch(p, 0, 2)
#else
#define GRU_PREFETCH_L1(p) ((void)(p))
#define GRU_PREFETCH_L2(p) ((void)(p))
#endif

#define GRU_BEGIN_KERNELS \
  namespace gruengine {   \
  namespace GRU_ISA {     \
  namespace {
#define GRU_END_KERNELS \
  }                     \
  }                     \
  }
