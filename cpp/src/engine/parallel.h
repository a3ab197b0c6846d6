// SPDX-License-Identifier: MIT
// Teams of threads that run one body together.
#pragma once

#include <atomic>
#include <cstdint>
#include <type_traits>

#include "engine/spin.h"
#include "engine/thread_pool.h"

namespace gruengine {

// One member of a team. Work is split statically by index; results do not depend on the split.
// A body is a row of stages, the same for every member: each ends when all members are there.
class Team {
 public:
  // On lines of their own, since each is written by one member mostly.
  struct Shared {
    struct alignas(64) Claim {
      std::atomic<uint32_t> next{0};  // the stage whose part of this member is to be claimed
    };
    alignas(64) std::atomic<uint32_t> done{0};  // parts done, of all stages
    alignas(64) std::atomic<uint32_t> sleepers{0};
    std::atomic<bool> dissolved{false};
    Claim claims[kMostThreads];
  };

  Team() = default;
  Team(int index, int size, Shared* shared)
      : index_(index),
        size_(size),
        shared_(shared),
        start_(index == 0 ? Clock::now() : Clock::time_point{}) {}
  int index() const { return index_; }
  int size() const { return size_; }
  // The part of a member, or of this one, in [0, n).
  int64_t begin(int64_t n, int part) const { return n * part / size_; }
  int64_t end(int64_t n, int part) const { return n * (part + 1) / size_; }
  int64_t begin(int64_t n) const { return begin(n, index_); }
  int64_t end(int64_t n) const { return end(n, index_); }

  // Whether the caller has gone on alone, since it waited too long for the others: this member has
  // nothing more to do.
  bool deserted() const {
    return index_ != 0 && shared_->dissolved.load(std::memory_order_relaxed);
  }
  // Waits until `number` is `least`.
  void wait_for(const std::atomic<uint32_t>& number, uint32_t least,
                std::atomic<uint32_t>& sleepers);
  // How long this member, the caller, has slept for others, and whether that is too long.
  Clock::duration slept() const { return slept_; }
  void sleep_more(Clock::duration time) { slept_ += time; }
  bool sleeps_too_long(Clock::time_point now) const;

  // A stage that ends here: waits until every member has come.
  void barrier();
  // A stage: runs work(part) for this member's part, then for parts whose members have not come
  // (the system may have taken their processors), and waits for those that are being done. Members
  // that come late find the stage done.
  template <class Work>
  void share(const Work& work) {
    if (size_ == 1) return work(0);
    const uint32_t stage = stage_++;
    if (deserted()) return;
    for (int i = 0; i < size_; ++i) {
      const int part = index_ + i < size_ ? index_ + i : index_ + i - size_;
      if (!claim(part, stage)) continue;
      work(part);
      tell(stage);
    }
    wait(stage);
  }

 private:
  bool claim(int part, uint32_t stage);
  void tell(uint32_t stage);
  void wait(uint32_t stage);

  int index_ = 0;
  int size_ = 1;
  Shared* shared_ = nullptr;
  uint32_t stage_ = 0;
  Clock::time_point start_{};
  Clock::duration slept_{};
};

// Wakes those who wait for a number that went up.
void wake_all(std::atomic<uint32_t>& number, const std::atomic<uint32_t>& sleepers);

using TeamBody = void (*)(Team&, void*);

// Runs body(team, context) on up to `threads` threads, the caller among them. All of them run it.
// The body must not throw.
void run_team(int threads, TeamBody body, void* context);

// The same for bodies that do all their work in share(): the caller goes on alone until others
// come, and does not wait for those that come too late. When it has to sleep for others for a
// quarter of the time, since other work has the processors, it ends the team and works alone for a
// while. `wake`: the run is long enough to wake threads that sleep.
void run_helped(int threads, bool wake, TeamBody body, void* context);

template <class F>
void run_team(int threads, F&& body) {
  run_team(
      threads, [](Team& team, void* f) { (*static_cast<std::remove_reference_t<F>*>(f))(team); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

template <class F>
void run_helped(int threads, bool wake, F&& body) {
  run_helped(
      threads, wake,
      [](Team& team, void* f) { (*static_cast<std::remove_reference_t<F>*>(f))(team); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace gruengine
