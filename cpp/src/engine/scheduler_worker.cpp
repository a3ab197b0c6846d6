// SPDX-License-Identifier: MIT
// The workers of a scheduler, and callers that do their work.
#include <algorithm>
#include <bit>

#include "engine/scheduler_impl.h"
#include "engine/state.h"

namespace gruengine {
namespace {

using std::chrono::microseconds;

int bucket_of(int64_t value) {
  const int k = value <= 1 ? 0 : std::bit_width(static_cast<uint64_t>(value - 1));
  return std::min(k, SchedulerMetrics::kBuckets - 1);
}

}  // namespace

void tell(std::vector<Answer>& answers) {
  for (const Answer& answer : answers) {
    answer.callback(answer.context, answer.error ? &*answer.error : nullptr);
  }
  answers.clear();
}

void Scheduler::Impl::work(int index) {
  Lock lock(mutex);
  while (wait_for_work(lock, index)) {
    if (options.max_wait_us > 0) gather_more(lock);
    if (queue.ready() == 0 || idle_runners.empty()) continue;
    Runner& runner = *idle_runners.back();
    idle_runners.pop_back();
    take_batch(runner);
    execute(runner, lock);
  }
  work_to_do.notify_all();  // let the next worker see that all is done
}

// False when the scheduler stops and nothing is left to do.
bool Scheduler::Impl::wait_for_work(Lock& lock, int index) {
  const bool scans = index == 0 && options.idle_timeout_us > 0;
  for (;;) {
    if (queue.ready() > 0 && !idle_runners.empty()) return true;
    if (stopping && queue.queued() == 0 && queue.running() == 0) return false;
    if (scans && !stopping && Clock::now() >= next_scan) {
      evict(lock);
      continue;
    }
    ++sleeping;
    if (scans && !stopping) {
      work_to_do.wait_until(lock, next_scan);
    } else {
      work_to_do.wait(lock);
    }
    --sleeping;
  }
}

// Waits for steps of other streams to join those that are ready.
void Scheduler::Impl::gather_more(Lock& lock) {
  while (!stopping && queue.ready() > 0) {
    const int64_t enough = std::min(options.max_batch, store.size());
    const auto until = queue.oldest() + microseconds(options.max_wait_us);
    if (queue.ready() >= enough || Clock::now() >= until) return;
    ++sleeping;
    work_to_do.wait_until(lock, until);
    --sleeping;
  }
}

void Scheduler::Impl::take_batch(Runner& runner) {
  const auto now = Clock::now();
  while (queue.ready() > 0 && static_cast<int64_t>(runner.taken.size()) < options.max_batch) {
    Request* request = queue.take();
    if (request->deadline < now) {
      ++metrics.expired;
      runner.answers.push_back(queue.finish(
          request, Error(ErrorCode::kDeadline, "the step was not begun in the time it was given")));
    } else {
      runner.taken.push_back(request);
    }
  }
}

// Runs what the runner has taken and gives it back; the lock is released meanwhile.
void Scheduler::Impl::execute(Runner& runner, Lock& lock) {
  const auto rows = static_cast<int64_t>(runner.taken.size());
  std::optional<Error> failed;
  if (rows > 0) {
    lock.unlock();
    try {
      if (options.on_batch) options.on_batch(rows);
      run_batch(runner);
    } catch (const Error& error) {
      failed = error;
    } catch (const std::exception& error) {
      failed = Error(ErrorCode::kInternal, std::string("a worker failed: ") + error.what());
    } catch (...) {
      failed = Error(ErrorCode::kInternal, "a worker failed with an unknown exception");
    }
    lock.lock();
    const auto now = Clock::now();
    ++metrics.batches;
    metrics.rows += rows;
    ++metrics.batch_sizes[bucket_of(rows)];
    for (size_t i = 0; i < runner.taken.size(); ++i) {
      Request* request = runner.taken[i];
      std::optional<Error>& error = runner.errors[i];
      if (failed) error = failed;
      const auto taken = std::chrono::duration_cast<microseconds>(now - request->given).count();
      ++metrics.latency[bucket_of(taken)];
      metrics.latency_seconds += static_cast<double>(taken) * 1e-6;
      ++(error ? metrics.failed : metrics.steps);
      runner.answers.push_back(queue.finish(request, std::move(error)));
      error.reset();
    }
    runner.taken.clear();
    if (failed) fail(*failed, runner.answers);
  }
  if (settling > 0) step_done.notify_all();
  // The runner is free once its answers are told.
  lock.unlock();
  tell(runner.answers);
  lock.lock();
  idle_runners.push_back(&runner);
  if (sleeping > 0 && (queue.ready() > 0 || stopping)) work_to_do.notify_one();
}

void Scheduler::Impl::run_batch(Runner& runner) {
  const size_t ins = layout->ins.size(), outs = layout->outs.size();
  runner.records.clear();
  runner.inputs.clear();
  runner.outputs.clear();
  for (const Request* request : runner.taken) {
    runner.records.push_back(store.record(request->place));
    runner.inputs.insert(runner.inputs.end(), request->inputs, request->inputs + ins);
    runner.outputs.insert(runner.outputs.end(), request->outputs, request->outputs + outs);
  }
  const auto step = [&](size_t first, size_t rows) {
    runner.batch.step({static_cast<int64_t>(rows), runner.records.data() + first,
                       runner.inputs.data() + first * ins, runner.outputs.data() + first * outs,
                       true});
  };
  try {
    step(0, runner.taken.size());
  } catch (const Error&) {
    // The values of one stream were refused: the others must not suffer for it.
    for (size_t i = 0; i < runner.taken.size(); ++i) {
      try {
        step(i, 1);
      } catch (const Error& error) {
        runner.errors[i] = error;
      }
    }
  }
}

void Scheduler::Impl::evict(Lock& lock) {
  const auto now = Clock::now();
  const auto idle = microseconds(options.idle_timeout_us);
  next_scan = now + std::max<Clock::duration>(idle / 4, std::chrono::milliseconds(1));
  std::vector<std::pair<StreamId, std::vector<uint8_t>>> gone;
  for (const StreamId id : store.ids()) {
    const int64_t place = store.place(id);
    const Lane& lane = queue.lane(place);
    if (lane.now != nullptr || now - lane.last_used < idle) continue;
    layout->to_block(store.record(place), block.data());
    gone.emplace_back(id, pack_state(layout->model()->hash(), *layout->one(), block.data()));
    store.close(id);
    ++metrics.evicted;
  }
  if (gone.empty() || !options.on_evict) return;
  lock.unlock();
  for (const auto& [id, state] : gone) options.on_evict(id, state);
  lock.lock();
}

void Scheduler::Impl::fail(const Error& error, std::vector<Answer>& answers) {
  if (!failure) failure = error;
  stopping = true;
  const size_t before = answers.size();
  queue.drop_all(*failure, answers);
  metrics.failed += static_cast<int64_t>(answers.size() - before);
  work_to_do.notify_all();
}

// Without a worker: nobody waits, so the caller's own thread is the quickest.
void Scheduler::Impl::run_at_once(Request* request, Lock& lock) {
  Runner& runner = *idle_runners.back();
  idle_runners.pop_back();
  queue.start(request);
  runner.taken.push_back(request);
  execute(runner, lock);
}

void Scheduler::Impl::wait_for(Waiter& waiter, Request* request, uint64_t ticket,
                               int64_t timeout_us) {
  std::unique_lock wait(waiter.mutex);
  if (timeout_us <= 0) {
    waiter.changed.wait(wait, [&] { return waiter.done; });
    return;
  }
  if (waiter.changed.wait_for(wait, microseconds(timeout_us), [&] { return waiter.done; })) return;
  wait.unlock();
  std::vector<Answer> answers;
  {
    const std::lock_guard lock(mutex);
    const bool waiting = request->ticket == ticket &&
                         (request->where == Request::kReady || request->where == Request::kBehind);
    if (waiting) {
      ++metrics.expired;
      answers.push_back(queue.finish(
          request, Error(ErrorCode::kDeadline, "the step was not begun in the time it was given")));
      if (queue.ready() > 0 && sleeping > 0) work_to_do.notify_one();
    }
  }
  tell(answers);
  wait.lock();
  waiter.changed.wait(wait, [&] { return waiter.done; });
}

}  // namespace gruengine
