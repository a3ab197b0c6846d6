// SPDX-License-Identifier: MIT
#include "engine/parallel.h"

#include <algorithm>

#include "engine/cpu_limit.h"
#include "engine/spin.h"
#include "gruengine/isa.h"

namespace gruengine {
namespace {

// Longer than members of a team differ when all of them run; far shorter than a time slice.
constexpr std::chrono::microseconds kSpin{50};

constexpr std::chrono::microseconds kPatience{300};
constexpr int kAlone = 16;  // times as long as was lost in waiting

struct Run {
  TeamBody body;
  void* context;
  int size;
  Team::Shared shared;
};

// Short runs wake nobody, unless they follow one another: then threads stay awake between them.
bool follows_others(Clock::time_point now) {
  constexpr std::chrono::microseconds kSoon{150};
  constexpr int kEnough = 8;
  thread_local Clock::time_point last;
  thread_local int row = 0;
  row = now - last < kSoon ? row + 1 : 0;
  last = now;
  if (row < kEnough) return false;
  row = 0;
  return true;
}

// Until when the calling thread works alone, since others kept it waiting.
thread_local Clock::time_point alone_until;

void run(int threads, bool wake, bool recall, TeamBody body, void* context) {
  if (threads > 1) threads = std::min(threads, max_threads());
  const Clock::time_point now = threads > 1 ? Clock::now() : Clock::time_point{};
  if (threads > 1 && now >= alone_until) {
    Helpers helpers(threads - 1, wake || follows_others(now));
    if (helpers.count() > 0) {
      Run run{body, context, helpers.count() + 1, {}};
      helpers.start(
          [](void* at, int i) {
            Run& of = *static_cast<Run*>(at);
            Team team(i + 1, of.size, &of.shared);
            of.body(team, of.context);
          },
          &run);
      Team team(0, run.size, &run.shared);
      body(team, context);
      team.sleep_more(helpers.finish(recall));
      if (team.slept() > Clock::duration::zero()) {
        const Clock::time_point end = Clock::now();
        if (team.sleeps_too_long(end)) alone_until = end + kAlone * team.slept();
      }
      return;
    }
  }
  Team alone;
  body(alone, context);
}

}  // namespace

bool Team::sleeps_too_long(Clock::time_point now) const {
  return slept_ > kPatience && slept_ * 4 > now - start_;
}

void Team::wait_for(const std::atomic<uint32_t>& number, uint32_t least,
                    std::atomic<uint32_t>& sleepers) {
  const auto reached = [&] {
    return static_cast<int32_t>(number.load(std::memory_order_acquire) - least) >= 0;
  };
  if (spin_until(reached, kSpin)) return;
  const Clock::time_point begin = Clock::now();
  sleepers.fetch_add(1);
  for (uint32_t seen = number.load(); !reached(); seen = number.load()) number.wait(seen);
  sleepers.fetch_sub(1);
  if (index_ != 0) return;
  const Clock::time_point end = Clock::now();
  slept_ += end - begin;
  if (sleeps_too_long(end)) shared_->dissolved.store(true, std::memory_order_relaxed);
}

void wake_all(std::atomic<uint32_t>& number, const std::atomic<uint32_t>& sleepers) {
  if (sleepers.load() > 0) number.notify_all();
}

bool Team::claim(int part, uint32_t stage) {
  std::atomic<uint32_t>& next = shared_->claims[part].next;
  if (next.load(std::memory_order_relaxed) != stage) return false;
  return next.compare_exchange_strong(stage, stage + 1, std::memory_order_acq_rel);
}

void Team::tell(uint32_t stage) {
  const uint32_t all = (stage + 1) * static_cast<uint32_t>(size_);
  if (shared_->done.fetch_add(1) + 1 == all) wake_all(shared_->done, shared_->sleepers);
}

void Team::wait(uint32_t stage) {
  wait_for(shared_->done, (stage + 1) * static_cast<uint32_t>(size_), shared_->sleepers);
}

void Team::barrier() {
  if (size_ == 1) return;
  const uint32_t stage = stage_++;
  shared_->claims[index_].next.store(stage + 1, std::memory_order_relaxed);
  tell(stage);
  wait(stage);
}

void run_team(int threads, TeamBody body, void* context) {
  run(threads, true, false, body, context);
}

void run_helped(int threads, bool wake, TeamBody body, void* context) {
  run(threads, wake, true, body, context);
}

int max_threads() { return lost_threads() ? 1 : std::min(allowed_cpus(), kMostThreads); }

}  // namespace gruengine
