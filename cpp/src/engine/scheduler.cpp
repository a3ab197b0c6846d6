// SPDX-License-Identifier: MIT
#include "gruengine/scheduler.h"

#include <algorithm>

#include "engine/scheduler_impl.h"
#include "engine/state.h"

namespace gruengine {
namespace {

void check_option(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return;
  throw Error(ErrorCode::kInvalidArgument, std::string(name) + " is " + std::to_string(value) +
                                               "; it must be from " + std::to_string(least) +
                                               " to " + std::to_string(most));
}

}  // namespace

Error scheduler_closed() { return {ErrorCode::kClosed, "the scheduler was shut down"}; }

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
  SchedulerWaiter waiter;
  Impl& impl = *impl_;
  auto lock = impl.enter();
  const bool at_once = impl.options.max_wait_us == 0 && impl.queue.ready() == 0 &&
                       !impl.idle_runners.empty() && impl.store.is_open(id) &&
                       impl.queue.lane(impl.store.place(id)).now == nullptr;
  Request* request = impl.admit(id, inputs, outputs, !at_once);
  request->callback = &SchedulerWaiter::answer;
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
    if (!drain) impl.queue.drop_all(scheduler_closed(), answers);
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