// SPDX-License-Identifier: MIT
#include "engine/parallel.h"

#include <algorithm>
#include <thread>

#include "gruengine/isa.h"
#include "isa/denormals.h"

#ifdef _OPENMP
#include <omp.h>
#include <pthread.h>
#endif

namespace gruengine {
namespace {

constexpr int kSpins = 20000;

// GCC's OpenMP hangs in the child of a process that had run a parallel region: such a child stays
// on one thread.
std::atomic<bool> ran_parallel{false};
std::atomic<bool> forked{false};

#ifdef _OPENMP
void after_fork_in_child() {
  if (ran_parallel.load()) forked.store(true);
}
const int registered = pthread_atfork(nullptr, nullptr, after_fork_in_child);
#endif

}  // namespace

void Team::barrier() {
  if (size_ == 1) return;
  const int generation = shared_->generation.load(std::memory_order_relaxed);
  if (shared_->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    shared_->arrived.store(0, std::memory_order_relaxed);
    shared_->generation.store(generation + 1, std::memory_order_release);
    return;
  }
  int spins = 0;
  while (shared_->generation.load(std::memory_order_acquire) == generation) {
    if (++spins < kSpins) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    } else {
      std::this_thread::yield();
    }
  }
}

void run_team(int threads, void (*body)(Team&, void*), void* context) {
  Team::Shared shared;
#ifdef _OPENMP
  threads = std::min(threads, max_threads());
  if (threads > 1) {
    ran_parallel.store(true);
#pragma omp parallel num_threads(threads)
    {
      const FlushDenormals flush;
      Team team(omp_get_thread_num(), omp_get_num_threads(), &shared);
      body(team, context);
    }
    return;
  }
#else
  (void)threads;
#endif
  Team alone(0, 1, &shared);
  body(alone, context);
}

int max_threads() {
#ifdef _OPENMP
  (void)registered;
  return forked.load() ? 1 : std::min(omp_get_num_procs(), omp_get_thread_limit());
#else
  return 1;
#endif
}

bool built_with_openmp() {
#ifdef _OPENMP
  return true;
#else
  return false;
#endif
}

}  // namespace gruengine
