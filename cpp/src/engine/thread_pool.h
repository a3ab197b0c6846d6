// SPDX-License-Identifier: MIT
// The threads of the engine. There are as many as processors less one at most, whatever the number
// of callers: who finds none free works alone. They are started on the first wish.
#pragma once

#include <cstdint>

#include "engine/spin.h"

namespace gruengine {

struct PoolThread;

constexpr int kMostThreads = 64;  // of one run, the caller among them

// Threads lent to one run.
class Helpers {
 public:
  // Takes up to `wanted` free threads; those that sleep only when the run is worth the waking.
  Helpers(int wanted, bool wake);
  ~Helpers() { finish(true); }
  Helpers(const Helpers&) = delete;
  Helpers& operator=(const Helpers&) = delete;
  int count() const { return count_; }
  // Has helper i, from 0, call run(context, i). `run` must not throw.
  void start(void (*run)(void*, int), void* context);
  // Waits for them and tells how long it slept. `recall`: those that have not begun yet never will.
  Clock::duration finish(bool recall);

 private:
  struct Loan {
    PoolThread* thread;
    uint32_t ticket;
  };
  Loan loans_[kMostThreads];
  int count_ = 0;
  bool started_ = false;
};

// Whether this process is the child of one that had such threads. It has none, and stays so.
bool lost_threads();

}  // namespace gruengine
