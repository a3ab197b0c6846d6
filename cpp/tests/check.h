// SPDX-License-Identifier: MIT
// The test harness: CHECK counts and prints failures, REPORT ends main().
#pragma once

#include <atomic>
#include <cstdio>

namespace gruengine::test {

struct Counts {
  std::atomic<long> checks{0};
  std::atomic<long> failures{0};
};

inline Counts& counts() {
  static Counts c;
  return c;
}

}  // namespace gruengine::test

// CHECK(condition, "printf format of what was wrong", ...). Only the first failures are printed.
#define CHECK(condition, ...)                                              \
  do {                                                                     \
    auto& gru_counts = gruengine::test::counts();                          \
    ++gru_counts.checks;                                                   \
    if (!(condition) && ++gru_counts.failures <= 30) {                     \
      std::fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::fprintf(stderr, __VA_ARGS__);                                   \
      std::fprintf(stderr, "\n");                                          \
    }                                                                      \
  } while (false)

#define REPORT()                                                                   \
  [] {                                                                             \
    const auto& c = gruengine::test::counts();                                     \
    std::printf("%ld checks, %ld failures\n", c.checks.load(), c.failures.load()); \
    return c.failures == 0 && c.checks > 0 ? 0 : 1;                                \
  }()
