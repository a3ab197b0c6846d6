// SPDX-License-Identifier: MIT
// The only place that starts threads.
#pragma once

#include <atomic>
#include <cstdint>

namespace gruengine {

// One member of a team that runs the same body. Work is split statically by index; results do not
// depend on the split.
class Team {
 public:
  struct Shared {
    std::atomic<int> arrived{0};
    std::atomic<int> generation{0};
  };

  Team(int index, int size, Shared* shared) : index_(index), size_(size), shared_(shared) {}
  int index() const { return index_; }
  int size() const { return size_; }
  // This member's part of [0, n): begin(n) .. begin(n) of the next member.
  int64_t begin(int64_t n) const { return n * index_ / size_; }
  int64_t end(int64_t n) const { return n * (index_ + 1) / size_; }
  // Waits until every member is here: spins, then yields.
  void barrier();

 private:
  int index_;
  int size_;
  Shared* shared_;
};

// Runs body(team, context) on up to `threads` threads, the caller among them. The body must not
// throw.
void run_team(int threads, void (*body)(Team&, void*), void* context);

template <class F>
void run_team(int threads, F&& body) {
  run_team(
      threads, [](Team& team, void* f) { (*static_cast<F*>(f))(team); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace gruengine
