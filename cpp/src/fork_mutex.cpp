// SPDX-License-Identifier: MIT
#include "fork_mutex.h"

#include <pthread.h>

namespace gruengine {

// Every ForkMutex that lives. Never destroyed: models may end after static objects.
struct ForkRegistry {
  std::mutex mutex;
  ForkMutex* first = nullptr;

  static ForkRegistry& get() {
    static ForkRegistry* registry = [] {
      pthread_atfork(lock_all, unlock_all, unlock_all);
      return new ForkRegistry;
    }();
    return *registry;
  }
  static void lock_all() {
    get().mutex.lock();
    for (ForkMutex* each = get().first; each != nullptr; each = each->next_) each->lock();
  }
  static void unlock_all() {
    for (ForkMutex* each = get().first; each != nullptr; each = each->next_) each->unlock();
    get().mutex.unlock();
  }
};

ForkMutex::ForkMutex() {
  ForkRegistry& registry = ForkRegistry::get();
  const std::lock_guard lock(registry.mutex);
  next_ = registry.first;
  if (next_ != nullptr) next_->previous_ = this;
  registry.first = this;
}

ForkMutex::~ForkMutex() {
  ForkRegistry& registry = ForkRegistry::get();
  const std::lock_guard lock(registry.mutex);
  if (next_ != nullptr) next_->previous_ = previous_;
  (previous_ != nullptr ? previous_->next_ : registry.first) = next_;
}

}  // namespace gruengine
