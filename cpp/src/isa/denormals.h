// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64) || defined(__i386__)
#include <xmmintrin.h>
#endif

namespace gruengine {

// While it lives, subnormal numbers count as zero on this thread, as arguments and as results: one
// of them can cost a hundred cycles. The caller's mode comes back at the end.
class FlushDenormals {
 public:
#if defined(__x86_64__) || defined(_M_X64) || defined(__i386__)
  FlushDenormals() noexcept : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | kFlush); }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  static constexpr uint32_t kFlush = 0x8040;  // FTZ and DAZ
  uint32_t saved_;
#elif defined(__aarch64__)
  FlushDenormals() noexcept {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
    __asm__ volatile("msr fpcr, %0" : : "r"(saved_ | kFlush));
  }
  ~FlushDenormals() { __asm__ volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  static constexpr uint64_t kFlush = 1u << 24;  // FZ
  uint64_t saved_;
#else
  FlushDenormals() noexcept = default;
  ~FlushDenormals() = default;
#endif

 public:
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;
};

}  // namespace gruengine
