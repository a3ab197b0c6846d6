// SPDX-License-Identifier: MIT
#pragma once

#include <Python.h>

#include <chrono>

#include "gruengine/stream.h"

namespace gruengine {

// Lets a run without the GIL end on Ctrl-C: asks Python for pending signals every 20 ms. For the
// main thread alone: no other gets signals, and one that takes the GIL while Python shuts down is
// ended by it.
class SignalCheck {
 public:
  Stop stop() { return {&SignalCheck::wanted, this}; }

 private:
  using Clock = std::chrono::steady_clock;

  // When true, the Python exception is set.
  static bool wanted(void* self) {
    auto& check = *static_cast<SignalCheck*>(self);
    const auto now = Clock::now();
    if (now < check.next_) return false;
    check.next_ = now + std::chrono::milliseconds(20);
    const PyGILState_STATE gil = PyGILState_Ensure();
    const bool raised = PyErr_CheckSignals() != 0;
    PyGILState_Release(gil);
    return raised;
  }

  Clock::time_point next_{};
};

}  // namespace gruengine
