// SPDX-License-Identifier: MIT
// The queues of a scheduler. Everything here is guarded by the scheduler's mutex.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "gruengine/scheduler.h"

namespace gruengine {

using Clock = std::chrono::steady_clock;

// A step that waits or runs. Lives in a block made at the start.
struct Request {
  enum Where : uint8_t { kFree, kReady, kBehind, kRunning };
  Where where = kFree;
  uint64_t ticket = 0;  // of its caller: another one means that the place has been used again
  StreamId id = 0;
  int64_t place = 0;
  Clock::time_point given, deadline;  // deadline: max() when there is none
  StepCallback callback = nullptr;
  void* context = nullptr;
  const void** inputs = nullptr;
  void** outputs = nullptr;
  Request* previous = nullptr;
  Request* next = nullptr;
};

// A list linked through the requests themselves.
class RequestList {
 public:
  bool empty() const { return first_ == nullptr; }
  int64_t size() const { return size_; }
  Request* first() const { return first_; }
  void push(Request* request);
  Request* pop();
  void remove(Request* request);

 private:
  Request *first_ = nullptr, *last_ = nullptr;
  int64_t size_ = 0;
};

// The steps of one stream: at most one of them is ready or runs, the others wait behind it.
struct Lane {
  Request* now = nullptr;
  RequestList behind;
  Clock::time_point last_used;
  bool running() const { return now != nullptr && now->where == Request::kRunning; }
};

// What is told to a caller once the lock is released.
struct Answer {
  StepCallback callback;
  void* context;
  std::optional<Error> error;
};

class RequestQueue {
 public:
  // `places`: of streams; `waiting`: steps that may wait; `running`: steps that may run.
  RequestQueue(int64_t places, int64_t waiting, int64_t running, size_t inputs, size_t outputs);

  Lane& lane(int64_t place) { return lanes_[static_cast<size_t>(place)]; }
  int64_t ready() const { return ready_.size(); }
  int64_t queued() const { return queued_; }
  int64_t running() const { return running_; }
  bool full() const { return queued_ >= waiting_; }
  Clock::time_point oldest() const { return ready_.first()->given; }

  // A request for that stream, which nothing holds yet.
  Request* make(StreamId id, int64_t place, const void* const* inputs, void* const* outputs);
  void enqueue(Request* request);  // ready, or behind the stream's others
  void start(Request* request);    // without waiting: the stream has no other
  Request* take();                 // the first that is ready, now running
  // Ends a request wherever it is, and makes the next of its stream ready.
  Answer finish(Request* request, std::optional<Error> error);
  // Ends every step of a stream, or of all, that waits.
  void drop(int64_t place, const Error& error, std::vector<Answer>& answers);
  void drop_all(const Error& error, std::vector<Answer>& answers);

 private:
  size_t inputs_, outputs_;
  int64_t waiting_, queued_ = 0, running_ = 0;
  uint64_t tickets_ = 0;
  std::vector<const void*> input_pointers_;
  std::vector<void*> output_pointers_;
  std::vector<Request> requests_;
  RequestList free_, ready_;
  std::vector<Lane> lanes_;
};

// Counts that differ from the parent's in a child of fork.
uint64_t forks_so_far();

}  // namespace gruengine
