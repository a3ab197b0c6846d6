// SPDX-License-Identifier: MIT
// Steps of many streams from many threads, run in batches as they arrive (cellular batching).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gruengine/pool.h"

namespace gruengine {

struct SchedulerOptions {
  int64_t max_streams = 1024;   // open at once
  int64_t max_batch = 64;       // rows of one batch
  int64_t max_wait_us = 0;      // how long a step may wait for others to join; 0: never
  int num_threads = 1;          // batches run at once
  int64_t max_queue = 0;        // steps waiting at once; 0: twice max_streams
  int64_t idle_timeout_us = 0;  // streams without a step for so long are evicted; 0: never
  std::map<std::string, int64_t> sizes;
  // An evicted stream and its state as bytes of Pool::get_state. Called by a worker, no lock held;
  // must not throw.
  std::function<void(StreamId id, const std::vector<uint8_t>& state)> on_evict;
  // Before each batch, with its rows, by the thread that runs it. When it throws, the scheduler has
  // failed: every waiting and every later step is answered with the error.
  std::function<void(int64_t rows)> on_batch;
};

// Counters since the start, and gauges.
struct SchedulerMetrics {
  static constexpr int kBuckets = 32;
  int64_t streams = 0, queued = 0, running = 0;  // now
  int64_t max_queued = 0;
  int64_t opened = 0, closed = 0, evicted = 0;
  int64_t steps = 0, failed = 0, overloaded = 0, expired = 0, batches = 0;
  int64_t rows = 0;  // of all batches
  // batch_sizes[k]: batches of up to 2^k rows and more than 2^(k-1).
  int64_t batch_sizes[kBuckets] = {};
  // latency[k]: steps answered within 2^k microseconds of being given, and not within 2^(k-1).
  int64_t latency[kBuckets] = {};
  double latency_seconds = 0;  // sum
};

// `error` is nullptr when the step was done. Called once for each step that submit() took, by a
// worker, no lock held; must not throw. May submit, but not wait for, other steps.
using StepCallback = void (*)(void* context, const Error* error);

// Every call may come from any thread. Steps of one stream run in the order they were given.
//
// Errors of steps: kInvalidArgument (the id is not of an open stream, or it was closed or evicted
// while the step waited), kOverloaded (the queue is full), kDeadline, kClosed (shut down),
// kUnsupported (a child of fork: it has no workers), or what the model refused: then its state is
// unchanged.
class GRUENGINE_API Scheduler {
 public:
  // Throws as Pool does, and Error(kInvalidArgument) for options out of range.
  Scheduler(std::shared_ptr<const Model> model, const SchedulerOptions& options);
  ~Scheduler();  // shuts down without draining

  const Model& model() const;
  const SchedulerOptions& options() const;
  const std::vector<PoolPort>& inputs() const;
  const std::vector<PoolPort>& outputs() const;
  bool is_open() const;  // false once shut down or failed

  // Throws Error(kOverloaded) when max_streams are open.
  StreamId open();
  StreamId open(const uint8_t* state, size_t size);
  // Steps that wait are answered with kInvalidArgument; one that runs is waited for.
  void close(StreamId id);
  std::vector<StreamId> ids() const;
  // Between the steps of the stream: waits for one that runs.
  std::vector<uint8_t> get_state(StreamId id) const;
  void set_state(StreamId id, const uint8_t* bytes, size_t size);

  // Answered once the step is done. inputs[p], outputs[p]: port p, one row. `timeout_us` > 0: give
  // up unless a worker took the step by then.
  void step(StreamId id, const void* const* inputs, void* const* outputs, int64_t timeout_us = 0);
  // The same without waiting; the memory stays the caller's and must live until the callback. The
  // pointers are copied. Throws where the step could not be taken; then there is no callback.
  void submit(StreamId id, const void* const* inputs, void* const* outputs, int64_t timeout_us,
              StepCallback callback, void* context);

  // Takes no more steps. `drain`: those given are done first; otherwise they are answered with
  // kClosed. Returns when the workers have ended. States can still be read.
  void shutdown(bool drain);

  SchedulerMetrics metrics() const;

 private:
  struct Impl;
  Scheduler(const Scheduler&) = delete;
  std::unique_ptr<Impl> impl_;
};

// In the text format of Prometheus. `labels` such as `model="a"` are put into every line.
GRUENGINE_API std::string to_prometheus(const SchedulerMetrics& metrics,
                                        const std::string& labels = "");

}  // namespace gruengine
