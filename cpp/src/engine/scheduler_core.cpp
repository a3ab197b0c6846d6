// SPDX-License-Identifier: MIT
#include "engine/scheduler_core.h"

#include <algorithm>
#include <atomic>

#ifdef __unix__
#include <pthread.h>
#endif

namespace gruengine {

void RequestList::push(Request* request) {
  request->previous = last_;
  request->next = nullptr;
  (last_ == nullptr ? first_ : last_->next) = request;
  last_ = request;
  ++size_;
}

Request* RequestList::pop() {
  Request* request = first_;
  if (request != nullptr) remove(request);
  return request;
}

void RequestList::remove(Request* request) {
  (request->previous == nullptr ? first_ : request->previous->next) = request->next;
  (request->next == nullptr ? last_ : request->next->previous) = request->previous;
  --size_;
}

RequestQueue::RequestQueue(int64_t places, int64_t waiting, int64_t running, size_t inputs,
                           size_t outputs)
    : inputs_(inputs),
      outputs_(outputs),
      waiting_(waiting),
      input_pointers_(static_cast<size_t>(waiting + running) * inputs),
      output_pointers_(static_cast<size_t>(waiting + running) * outputs),
      requests_(static_cast<size_t>(waiting + running)),
      lanes_(static_cast<size_t>(places)) {
  for (size_t i = 0; i < requests_.size(); ++i) {
    requests_[i].inputs = input_pointers_.data() + i * inputs;
    requests_[i].outputs = output_pointers_.data() + i * outputs;
    free_.push(&requests_[i]);
  }
}

Request* RequestQueue::make(StreamId id, int64_t place, const void* const* inputs,
                            void* const* outputs) {
  Request* request = free_.pop();
  request->ticket = ++tickets_;
  request->id = id;
  request->place = place;
  request->given = Clock::now();
  request->deadline = Clock::time_point::max();
  std::copy(inputs, inputs + inputs_, request->inputs);
  std::copy(outputs, outputs + outputs_, request->outputs);
  return request;
}

void RequestQueue::enqueue(Request* request) {
  Lane& lane = this->lane(request->place);
  ++queued_;
  if (lane.now != nullptr) {
    request->where = Request::kBehind;
    lane.behind.push(request);
    return;
  }
  lane.now = request;
  request->where = Request::kReady;
  ready_.push(request);
}

void RequestQueue::start(Request* request) {
  lane(request->place).now = request;
  request->where = Request::kRunning;
  ++running_;
}

Request* RequestQueue::take() {
  Request* request = ready_.pop();
  request->where = Request::kRunning;
  --queued_;
  ++running_;
  return request;
}

Answer RequestQueue::finish(Request* request, std::optional<Error> error) {
  Lane& lane = this->lane(request->place);
  if (request->where == Request::kBehind) {
    lane.behind.remove(request);
    --queued_;
  } else {
    if (request->where == Request::kReady) {
      ready_.remove(request);
      --queued_;
    } else {
      --running_;
      lane.last_used = Clock::now();
    }
    lane.now = lane.behind.pop();
    if (lane.now != nullptr) {
      lane.now->where = Request::kReady;
      ready_.push(lane.now);
    }
  }
  request->where = Request::kFree;
  free_.push(request);
  return {request->callback, request->context, std::move(error)};
}

void RequestQueue::drop(int64_t place, const Error& error, std::vector<Answer>& answers) {
  Lane& lane = this->lane(place);
  while (!lane.behind.empty()) answers.push_back(finish(lane.behind.first(), error));
  if (lane.now != nullptr && !lane.running()) answers.push_back(finish(lane.now, error));
}

void RequestQueue::drop_all(const Error& error, std::vector<Answer>& answers) {
  for (size_t place = 0; place < lanes_.size(); ++place) {
    drop(static_cast<int64_t>(place), error, answers);
  }
}

namespace {

std::atomic<uint64_t> forks{0};
#ifdef __unix__
const int registered = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1); });
#endif

}  // namespace

uint64_t forks_so_far() {
#ifdef __unix__
  (void)registered;
#endif
  return forks.load(std::memory_order_relaxed);
}

}  // namespace gruengine
