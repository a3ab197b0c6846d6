// SPDX-License-Identifier: MIT
// Waiting that stays awake for a while, since waking takes longer than most waits last.
#pragma once

#include <chrono>

namespace gruengine {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb" ::: "memory");
#endif
}

using Clock = std::chrono::steady_clock;

// Calls `ready` until it is true, for about that long; whether it was.
template <class Ready>
bool spin_until(const Ready& ready, std::chrono::microseconds most) {
  Clock::time_point end{};
  for (;;) {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      relax();
    }
    const Clock::time_point now = Clock::now();
    if (end == Clock::time_point{}) end = now + most;
    if (now >= end) return false;
  }
}

}  // namespace gruengine
