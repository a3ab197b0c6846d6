// SPDX-License-Identifier: MIT
// When more threads are worth it: the one place of these numbers. They come from
// `python -m benchmarks.threads` on two cores of an Emerald Rapids Xeon (2 MiB of L2 each), where a
// stage of a team costs 0.15 to 0.4 us, a run with a thread that is awake 0.5 us, and waking one
// 5 us to the caller and up to 50 us until it runs.
#pragma once

#include <algorithm>
#include <cstdint>

namespace gruengine {

// Products (multiply-adds) from which a matrix product is shared, and from which a sleeping thread
// is woken for it.
constexpr int64_t kSharedProduct = 1'000'000;
constexpr int64_t kWokenProduct = 10'000'000;

// Nanoseconds.
constexpr int64_t kStageCost = 400;     // of one stage of a team
constexpr int64_t kPieceCost = 2'500;   // of telling another lane of a piece, and its caches
constexpr int64_t kRunCost = 800;       // of starting and ending a run with a thread that is awake
constexpr int64_t kSharedRun = 3'000;   // the shortest run that is shared
constexpr int64_t kWokenRun = 100'000;  // the shortest run that wakes threads

// What a member of a team waits in each step for the part of `bytes` of states that others made:
// about a byte a nanosecond from the cache of one core to that of another.
inline int64_t exchange(int64_t bytes, int64_t threads) { return bytes * (threads - 1) / threads; }

// About how long one core reads `bytes` of weights while `resident` bytes compete for its L2.
inline int64_t reading(int64_t bytes, int64_t resident) {
  return bytes / (resident <= 1'300'000 ? 100 : resident <= 2'200'000 ? 60 : 28);
}
constexpr int64_t kNotResident = INT64_MAX;

// The same, or the time of the products made of them, `rate` a nanosecond.
inline int64_t estimate(int64_t bytes, int64_t products, int64_t rate, int64_t resident) {
  return std::max(reading(bytes, resident), products / rate);
}

}  // namespace gruengine
