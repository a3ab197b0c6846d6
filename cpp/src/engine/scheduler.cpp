// SPDX-License-Identifier: MIT
#include "gruengine/scheduler.h"

#include <algorithm>
#include <bit>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include "engine/pool_batch.h"
#include "engine/pool_store.h"
#include "engine/scheduler_core.h"
#include "engine/state.h"

namespace gruengine {
namespace {

using std::chrono::microseconds;

// The memory of one batch at a time.
struct Runner {
  Runner(const std::shared_ptr<const PoolLayout>& layout, int64_t max_batch)
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
struct Waiter {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  std::optional<Error> error;
  static void answer(void* context, const Error* error) {
    auto* waiter = static_cast<Waiter*>(context);
    const std::lock_guard lock(waiter->mutex);
    if (error != nullptr) waiter->error = *error;
    waiter->done = true;
    waiter->changed.notify_one();  // under the lock: the waiter goes away once it has it
  }
};

void tell(std::vector<Answer>& answers) {
  for (const Answer& answer : answers) {
    answer.callback(answer.context, answer.error ? &*answer.error : nullptr);
  }
  answers.clear();
}

int bucket_of(int64_t value) {
  const int k = value <= 1 ? 0 : std::bit_width(static_cast<uint64_t>(value - 1));
  return std::min(k, SchedulerMetrics::kBuckets - 1);
}

Error closed_error() { return {ErrorCode::kClosed, "the scheduler was shut down"}; }

void check_option(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return;
  throw Error(ErrorCode::kInvalidArgument, std::string(name) + " is " + std::to_string(value) +
                                               "; it must be from " + std::to_string(least) +
                                               " to " + std::to_string(most));
}

SchedulerOptions checked(SchedulerOptions options) {
  check_option("max_streams", options.max_streams, 1, PoolStore::kMostStreams);
  check_option("max_batch", options.max_batch, 1, 4096);
  check_option("max_wait_us", options.max_wait_us, 0, 60'000'000);
  check_option("num_threads", options.num_threads, 1, 256);
  check_option("max_queue", options.max_queue, 0, int64_t{1} << 24);
  check_option("idle_timeout_us", options.idle_timeout_us, 0, int64_t{1} << 50);
  if (options.max_queue == 0) options.max_queue = 2 * options.max_streams;
  options.max_batch = std::min(options.max_batch, options.max_streams);
  return options;
}

}  // namespace

struct Scheduler::Impl {
  using Lock = std::unique_lock<std::mutex>;

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
    if (stopping) throw closed_error();
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
    if (timeout_us > 0) request->deadline = request->given + microseconds(timeout_us);
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

Scheduler::Scheduler(std::shared_ptr<const Model> model, const SchedulerOptions& options)
    : impl_(std::make_unique<Impl>(std::move(model), options)) {}

Scheduler::~Scheduler() {
  if (impl_->forks != forks_so_far()) {
    impl_.release();  // NOLINT: its threads and locks belong to the parent
    return;
  }
  shutdown(false);
}

const Model& Scheduler::model() const { return *impl_->layout->model(); }
const SchedulerOptions& Scheduler::options() const { return impl_->options; }
const std::vector<PoolPort>& Scheduler::inputs() const { return impl_->layout->inputs; }
const std::vector<PoolPort>& Scheduler::outputs() const { return impl_->layout->outputs; }

bool Scheduler::is_open() const {
  if (impl_->forks != forks_so_far()) return false;
  const std::lock_guard lock(impl_->mutex);
  return !impl_->stopping;
}

StreamId Scheduler::open() {
  const auto lock = impl_->enter();
  return impl_->open_from(impl_->layout->initial.data());
}

StreamId Scheduler::open(const uint8_t* state, size_t size) {
  const auto lock = impl_->enter();
  Impl& impl = *impl_;
  unpack_state(model().hash(), *impl.layout->one(), state, size, impl.block.data());
  std::vector<char> record(static_cast<size_t>(impl.layout->record_bytes));
  impl.layout->from_block(impl.block.data(), record.data());
  return impl.open_from(record.data());
}

void Scheduler::close(StreamId id) {
  std::vector<Answer> answers;
  {
    auto lock = impl_->enter();
    Impl& impl = *impl_;
    impl.queue.drop(impl.store.place(id),
                    Error(ErrorCode::kInvalidArgument, "the stream was closed"), answers);
    impl.metrics.failed += static_cast<int64_t>(answers.size());
    try {
      const int64_t place = impl.settled(id, lock);
      // Steps given while a running one was waited for.
      impl.queue.drop(place, Error(ErrorCode::kInvalidArgument, "the stream was closed"), answers);
      impl.store.close(id);
      ++impl.metrics.closed;
    } catch (const Error&) {
      // Another caller closed it meanwhile.
    }
  }
  tell(answers);
}

std::vector<StreamId> Scheduler::ids() const {
  const auto lock = impl_->enter();
  return impl_->store.ids();
}

std::vector<uint8_t> Scheduler::get_state(StreamId id) const {
  auto lock = impl_->enter();
  Impl& impl = *impl_;
  const int64_t place = impl.settled(id, lock);
  impl.layout->to_block(impl.store.record(place), impl.block.data());
  return pack_state(model().hash(), *impl.layout->one(), impl.block.data());
}

void Scheduler::set_state(StreamId id, const uint8_t* bytes, size_t size) {
  auto lock = impl_->enter();
  Impl& impl = *impl_;
  const int64_t place = impl.settled(id, lock);
  unpack_state(model().hash(), *impl.layout->one(), bytes, size, impl.block.data());
  impl.layout->from_block(impl.block.data(), impl.store.record(place));
}

void Scheduler::step(StreamId id, const void* const* inputs, void* const* outputs,
                     int64_t timeout_us) {
  Waiter waiter;
  Impl& impl = *impl_;
  auto lock = impl.enter();
  const bool at_once = impl.options.max_wait_us == 0 && impl.queue.ready() == 0 &&
                       !impl.idle_runners.empty() && impl.store.is_open(id) &&
                       impl.queue.lane(impl.store.place(id)).now == nullptr;
  Request* request = impl.admit(id, inputs, outputs, !at_once);
  request->callback = &Waiter::answer;
  request->context = &waiter;
  if (at_once) {
    impl.run_at_once(request, lock);
    lock.unlock();
  } else {
    const uint64_t ticket = request->ticket;
    impl.enqueue(request, timeout_us);
    lock.unlock();
    impl.wait_for(waiter, request, ticket, timeout_us);
  }
  if (waiter.error) throw *waiter.error;
}

void Scheduler::submit(StreamId id, const void* const* inputs, void* const* outputs,
                       int64_t timeout_us, StepCallback callback, void* context) {
  const auto lock = impl_->enter();
  Request* request = impl_->admit(id, inputs, outputs, true);
  request->callback = callback;
  request->context = context;
  impl_->enqueue(request, timeout_us);
}

void Scheduler::shutdown(bool drain) {
  Impl& impl = *impl_;
  if (impl.forks != forks_so_far()) return;
  for (const std::thread& worker : impl.workers) {
    if (worker.get_id() == std::this_thread::get_id()) {
      throw Error(ErrorCode::kBusy, "a callback of a scheduler cannot shut it down");
    }
  }
  std::vector<Answer> answers;
  {
    const std::lock_guard lock(impl.mutex);
    impl.stopping = true;
    if (!drain) impl.queue.drop_all(closed_error(), answers);
    impl.metrics.failed += static_cast<int64_t>(answers.size());
    impl.work_to_do.notify_all();
  }
  tell(answers);
  const std::lock_guard joining(impl.joining);
  for (std::thread& worker : impl.workers) {
    if (worker.joinable()) worker.join();
  }
}

SchedulerMetrics Scheduler::metrics() const {
  const auto lock = impl_->enter();
  SchedulerMetrics metrics = impl_->metrics;
  metrics.streams = impl_->store.size();
  metrics.queued = impl_->queue.queued();
  metrics.running = impl_->queue.running();
  return metrics;
}

}  // namespace gruengine
