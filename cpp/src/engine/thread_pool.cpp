// SPDX-License-Identifier: MIT
#include "engine/thread_pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <system_error>
#include <thread>

#include "engine/spin.h"
#include "fork_mutex.h"
#include "isa/denormals.h"

namespace gruengine {
namespace {

// A thread with nothing to do stays awake that long: calls that follow one another find it so.
constexpr std::chrono::microseconds kIdle{50};
constexpr std::chrono::microseconds kJoin{50};

enum State : uint32_t { kFree, kReserved, kPosted, kRunning };

}  // namespace

// Never freed: a thread may sleep on it until the process ends.
struct alignas(64) PoolThread {
  std::atomic<uint32_t> state{kFree};
  std::atomic<bool> asleep{false};
  void (*run)(void*, int) = nullptr;
  void* context = nullptr;
  int index = 0;
  uint32_t ticket = 0;  // of the newest loan; whoever reserved the thread counts it up
  alignas(64) std::atomic<uint32_t> finished{0};  // the ticket last served
  std::atomic<uint32_t> waiting{0};               // callers that sleep until it is

  void work();
  void wait_for_post();
  bool served(uint32_t t) const {
    return static_cast<int32_t>(finished.load(std::memory_order_acquire) - t) >= 0;
  }
};

void PoolThread::wait_for_post() {
  const auto posted = [&] { return state.load(std::memory_order_acquire) == kPosted; };
  if (spin_until(posted, kIdle)) return;
  asleep.store(true);
  for (uint32_t seen = state.load(); seen != kPosted; seen = state.load()) state.wait(seen);
  asleep.store(false);
}

void PoolThread::work() {
#ifdef __linux__
  pthread_setname_np(pthread_self(), "gruengine");
#endif
  for (;;) {
    wait_for_post();
    uint32_t posted = kPosted;
    if (!state.compare_exchange_strong(posted, kRunning)) continue;  // recalled
    const uint32_t own = ticket;
    {
      const FlushDenormals flush;
      run(context, index);
    }
    // Free before it is told, so that the caller's next run finds it.
    state.store(kFree);
    finished.store(own);
    if (waiting.load() > 0) finished.notify_all();
  }
}

namespace {

std::atomic<bool> forked{false};

struct Pool {
  ForkMutex mutex;  // of growing
  std::atomic<int> count{0};
  PoolThread* threads[kMostThreads] = {};

  static Pool& get() {
    static Pool* pool = new Pool;
    return *pool;
  }

  void grow(int wanted) {
    if (count.load(std::memory_order_acquire) >= wanted) return;
    const std::lock_guard lock(mutex);
    for (int i = count.load(); i < wanted; ++i) {
      if (!start(i)) return;
      count.store(i + 1, std::memory_order_release);
    }
  }

 private:
  // Signals stay with the threads of the program.
  bool start(int i) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = true;
    try {
      threads[i] = new PoolThread;
      std::thread([own = threads[i]] { own->work(); }).detach();
    } catch (const std::system_error&) {
      started = false;
    } catch (const std::bad_alloc&) {
      started = false;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return started;
  }
};

void after_fork_in_child() {
  if (Pool::get().count.load() > 0) forked.store(true);
}
const int registered = [] {
  Pool::get();
  return pthread_atfork(nullptr, nullptr, after_fork_in_child);
}();

}  // namespace

Helpers::Helpers(int wanted, bool wake) {
  wanted = std::min(wanted, kMostThreads - 1);
  Pool& pool = Pool::get();
  pool.grow(wanted);
  const int all = std::min(wanted, pool.count.load(std::memory_order_acquire));
  for (int i = 0; i < all; ++i) {
    PoolThread* thread = pool.threads[i];
    uint32_t free = kFree;
    if (thread->state.load(std::memory_order_relaxed) != kFree) continue;
    if (!wake && thread->asleep.load(std::memory_order_relaxed)) continue;
    if (thread->state.compare_exchange_strong(free, kReserved)) {
      loans_[count_++] = {thread, ++thread->ticket};
    }
  }
}

void Helpers::start(void (*run)(void*, int), void* context) {
  started_ = true;
  for (int i = 0; i < count_; ++i) {
    PoolThread* thread = loans_[i].thread;
    thread->run = run;
    thread->context = context;
    thread->index = i;
    thread->state.store(kPosted);
    if (thread->asleep.load()) thread->state.notify_one();
  }
}

Clock::duration Helpers::finish(bool recall) {
  Clock::duration slept{};
  for (int i = 0; i < count_; ++i) {
    const auto [thread, ticket] = loans_[i];
    uint32_t unbegun = started_ ? kPosted : kReserved;
    if ((recall || !started_) && thread->state.compare_exchange_strong(unbegun, kFree)) continue;
    const auto served = [&] { return thread->served(ticket); };
    if (spin_until(served, kJoin)) continue;
    const Clock::time_point begin = Clock::now();
    thread->waiting.fetch_add(1);
    for (uint32_t seen = thread->finished.load(); !served(); seen = thread->finished.load()) {
      thread->finished.wait(seen);
    }
    thread->waiting.fetch_sub(1);
    slept += Clock::now() - begin;
  }
  count_ = 0;
  return slept;
}

bool lost_threads() {
  (void)registered;
  return forked.load();
}

}  // namespace gruengine
