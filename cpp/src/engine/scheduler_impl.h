// SPDX-License-Identifier: MIT
// What a scheduler holds: the queues and the records behind one mutex, the workers and their
// memory.
#pragma once

#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "engine/pool_batch.h"
#include "engine/pool_store.h"
#include "engine/scheduler_core.h"

namespace gruengine {

// The memory of one batch at a time.
struct SchedulerRunner {
  SchedulerRunner(const std::shared_ptr<const PoolLayout>& layout, int64_t max_batch)
      : batch(layout, max_batch, 1) {
    const auto rows = static_cast<size_t>(max_batch);
    taken.reserve(rows);
    records.reserve(rows);
    inputs.reserve(rows * layout->ins.size());
    outputs.reserve(rows * layout->outs.size());
    errors.resize(rows);
    answers.reserve(rows);
  }
  PoolBatch batch;
  std::vector<Request*> taken;
  std::vector<char*> records;
  std::vector<const void*> inputs;
  std::vector<void*> outputs;
  std::vector<std::optional<Error>> errors;
  std::vector<Answer> answers;
};

// A caller that waits for its step.
struct SchedulerWaiter {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  std::optional<Error> error;
  static void answer(void* context, const Error* error) {
    auto* waiter = static_cast<SchedulerWaiter*>(context);
    const std::lock_guard lock(waiter->mutex);
    if (error != nullptr) waiter->error = *error;
    waiter->done = true;
    waiter->changed.notify_one();  // under the lock: the waiter goes away once it has it
  }
};

// Calls back; the lock must not be held.
void tell(std::vector<Answer>& answers);
Error scheduler_closed();
// Throws Error(kInvalidArgument) for options out of range; resolves those that depend on others.
SchedulerOptions checked(SchedulerOptions options);

struct Scheduler::Impl {
  using Lock = std::unique_lock<std::mutex>;
  using Runner = SchedulerRunner;
  using Waiter = SchedulerWaiter;

  Impl(std::shared_ptr<const Model> model, const SchedulerOptions& given)
      : options(checked(given)),
        layout(std::make_shared<PoolLayout>(std::move(model), options.sizes)),
        store(layout->record_bytes, options.max_streams),
        queue(options.max_streams, options.max_queue, options.num_threads * options.max_batch,
              layout->ins.size(), layout->outs.size()),
        block(static_cast<size_t>(layout->one()->state_bytes)) {
    for (int i = 0; i < options.num_threads; ++i) {
      runners.push_back(std::make_unique<Runner>(layout, options.max_batch));
      idle_runners.push_back(runners.back().get());
    }
    next_scan = Clock::now();
    for (int i = 0; i < options.num_threads; ++i) workers.emplace_back([this, i] { work(i); });
  }

  // -- callers --

  void check_process() const {
    if (forks == forks_so_far()) return;
    throw Error(ErrorCode::kUnsupported,
                "this process is a fork of the one that made the scheduler, and has none of its "
                "workers; make a scheduler after the fork");
  }

  Lock enter() const {
    check_process();
    return Lock(mutex);
  }

  void check_open() const {
    if (failure) throw *failure;
    if (stopping) throw scheduler_closed();
  }

  // The request of a step that can be taken, not yet in the queue.
  Request* admit(StreamId id, const void* const* inputs, void* const* outputs, bool waits) {
    check_open();
    const int64_t place = store.place(id);
    if (waits && queue.full()) {
      ++metrics.overloaded;
      throw Error(ErrorCode::kOverloaded, std::to_string(queue.queued()) +
                                              " steps wait, as many as the queue holds; try later "
                                              "or give max_queue");
    }
    return queue.make(id, place, inputs, outputs);
  }

  void enqueue(Request* request, int64_t timeout_us) {
    if (timeout_us > 0) request->deadline = request->given + std::chrono::microseconds(timeout_us);
    queue.enqueue(request);
    metrics.max_queued = std::max(metrics.max_queued, queue.queued());
    if (sleeping > 0 && !idle_runners.empty()) work_to_do.notify_one();
  }

  StreamId open_from(const char* record) {
    check_open();
    const StreamId id = store.open();
    const int64_t place = store.place(id);
    std::memcpy(store.record(place), record, static_cast<size_t>(layout->record_bytes));
    queue.lane(place).last_used = Clock::now();
    ++metrics.opened;
    return id;
  }

  // The place of a stream between two of its steps.
  int64_t settled(StreamId id, Lock& lock) {
    for (;;) {
      const int64_t place = store.place(id);
      if (!queue.lane(place).running()) return place;
      ++settling;
      step_done.wait(lock);
      --settling;
    }
  }

  void run_at_once(Request* request, Lock& lock);
  void wait_for(Waiter& waiter, Request* request, uint64_t ticket, int64_t timeout_us);

  // -- workers --

  void work(int index);
  bool wait_for_work(Lock& lock, int index);
  void gather_more(Lock& lock);
  void take_batch(Runner& runner);
  void execute(Runner& runner, Lock& lock);
  void run_batch(Runner& runner);
  void evict(Lock& lock);
  void fail(const Error& error, std::vector<Answer>& answers);

  SchedulerOptions options;
  std::shared_ptr<const PoolLayout> layout;
  const uint64_t forks = forks_so_far();
  mutable std::mutex mutex;
  std::condition_variable work_to_do, step_done;
  PoolStore store;
  RequestQueue queue;
  Buffer block;  // of one row
  std::vector<std::unique_ptr<Runner>> runners;
  std::vector<Runner*> idle_runners;
  std::vector<std::thread> workers;
  std::mutex joining;
  SchedulerMetrics metrics;
  std::optional<Error> failure;
  Clock::time_point next_scan;
  bool stopping = false;
  int sleeping = 0;  // workers that wait for work
  int settling = 0;  // callers that wait for a running step
};

}  // namespace gruengine
