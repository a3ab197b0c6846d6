// SPDX-License-Identifier: MIT
#pragma once

#include <mutex>

namespace gruengine {

// A mutex that is free in the child of fork(): the fork waits until nobody holds one of them, or
// the child would wait for a thread that it does not have. Holders must not fork, nor make or end
// another one.
class ForkMutex {
 public:
  ForkMutex();
  ~ForkMutex();
  ForkMutex(const ForkMutex&) = delete;
  ForkMutex& operator=(const ForkMutex&) = delete;
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  friend struct ForkRegistry;
  std::mutex mutex_;
  ForkMutex* next_ = nullptr;
  ForkMutex* previous_ = nullptr;
};

}  // namespace gruengine
