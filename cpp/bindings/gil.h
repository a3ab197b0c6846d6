// SPDX-License-Identifier: MIT
#pragma once

#include <Python.h>
#include <unistd.h>

namespace gruengine {

// Python (before 3.14) ends a thread that asks for the GIL while the interpreter shuts down, by an
// unwinding that no destructor may meet: the process would be aborted. Such a thread waits here
// until the process is gone.
template <class F>
auto or_wait_forever(F&& take_gil) noexcept {
  try {
    return take_gil();
  } catch (...) {
    for (;;) pause();
  }
}

// Lets other Python threads run while it lives.
class GilRelease {
 public:
  GilRelease() : state_(PyEval_SaveThread()) {}
  ~GilRelease() {
    or_wait_forever([this] { PyEval_RestoreThread(state_); });
  }
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;

 private:
  PyThreadState* state_;
};

// Holds the GIL while it lives, in a thread that may have released it.
class GilAcquire {
 public:
  GilAcquire() : state_(or_wait_forever([] { return PyGILState_Ensure(); })) {}
  ~GilAcquire() { PyGILState_Release(state_); }
  GilAcquire(const GilAcquire&) = delete;
  GilAcquire& operator=(const GilAcquire&) = delete;

 private:
  PyGILState_STATE state_;
};

}  // namespace gruengine
