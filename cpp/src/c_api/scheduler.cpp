// SPDX-License-Identifier: MIT
#include "gruengine/scheduler.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "c_api/handles.h"

using gruengine::Error;
using gruengine::Scheduler;
using gruengine::SchedulerMetrics;
using gruengine::c_api::check_pointers;
using gruengine::c_api::guarded;
using gruengine::c_api::need;
using gruengine::c_api::port_at;

struct gru_scheduler {
  std::unique_ptr<Scheduler> scheduler;
  gruengine::c_api::Ports inputs, outputs;
};

namespace {

gruengine::SchedulerOptions options_of(const gru_scheduler_options* given) {
  gru_scheduler_options own = GRU_SCHEDULER_OPTIONS_INIT;
  if (given != nullptr) {
    gruengine::c_api::copy_struct(&own, sizeof own, given, given->size, "gru_scheduler_options");
  }
  gruengine::SchedulerOptions options;
  options.max_streams = own.max_streams;
  options.max_batch = own.max_batch;
  options.max_wait_us = own.max_wait_us;
  options.num_threads = own.num_threads;
  options.max_queue = own.max_queue;
  options.idle_timeout_us = own.idle_timeout_us;
  options.sizes = gruengine::c_api::sizes_of(own.sizes, own.num_sizes);
  if (own.on_evict != nullptr) {
    options.on_evict = [evict = own.on_evict, user = own.user](gruengine::StreamId id,
                                                               const std::vector<uint8_t>& state) {
      evict(user, id, state.data(), state.size());
    };
  }
  return options;
}

// What a step that was submitted is answered through.
struct Answer {
  gru_done_fn done;
  void* user;
  static void give(void* self, const Error* error) {
    const std::unique_ptr<Answer> answer(static_cast<Answer*>(self));
    if (error == nullptr) return answer->done(answer->user, GRU_OK, "");
    answer->done(answer->user, gruengine::c_api::status_of(error->code()), error->what());
  }
};

}  // namespace

gru_status gru_scheduler_create(const gru_model* model, const gru_scheduler_options* options,
                                gru_scheduler** scheduler) noexcept {
  return guarded([&] {
    need(scheduler, "scheduler") = nullptr;
    auto made = std::make_unique<gru_scheduler>();
    made->scheduler = std::make_unique<Scheduler>(need(model, "model").model, options_of(options));
    made->inputs.add(made->scheduler->inputs());
    made->outputs.add(made->scheduler->outputs());
    *scheduler = made.release();
  });
}

void gru_scheduler_free(gru_scheduler* scheduler) noexcept { delete scheduler; }

gru_status gru_scheduler_shutdown(gru_scheduler* scheduler, int32_t drain) noexcept {
  return guarded([&] { need(scheduler, "scheduler").scheduler->shutdown(drain != 0); });
}

int32_t gru_scheduler_is_open(const gru_scheduler* scheduler) noexcept {
  bool open = false;
  guarded([&] { open = need(scheduler, "scheduler").scheduler->is_open(); });
  return open ? 1 : 0;
}

const gru_port* gru_scheduler_input(const gru_scheduler* scheduler, size_t i) noexcept {
  return port_at(scheduler, &gru_scheduler::inputs, i);
}
const gru_port* gru_scheduler_output(const gru_scheduler* scheduler, size_t i) noexcept {
  return port_at(scheduler, &gru_scheduler::outputs, i);
}

gru_status gru_scheduler_open(gru_scheduler* scheduler, const void* state, size_t size,
                              gru_stream_id* id) noexcept {
  return guarded([&] {
    Scheduler& s = *need(scheduler, "scheduler").scheduler;
    const auto* bytes = static_cast<const uint8_t*>(state);
    need(id, "id") = bytes == nullptr ? s.open() : s.open(bytes, size);
  });
}

gru_status gru_scheduler_close(gru_scheduler* scheduler, gru_stream_id id) noexcept {
  return guarded([&] { need(scheduler, "scheduler").scheduler->close(id); });
}

gru_status gru_scheduler_get_state(const gru_scheduler* scheduler, gru_stream_id id, void* buffer,
                                   size_t* size) noexcept {
  return guarded([&] {
    gruengine::c_api::hand_out(need(scheduler, "scheduler").scheduler->get_state(id), buffer, size,
                               "state");
  });
}

gru_status gru_scheduler_set_state(gru_scheduler* scheduler, gru_stream_id id, const void* bytes,
                                   size_t size) noexcept {
  return guarded([&] {
    const auto* first = &need(static_cast<const uint8_t*>(bytes), "bytes");
    need(scheduler, "scheduler").scheduler->set_state(id, first, size);
  });
}

gru_status gru_scheduler_step(gru_scheduler* scheduler, gru_stream_id id, const void* const* inputs,
                              void* const* outputs, int64_t timeout_us) noexcept {
  return guarded([&] {
    check_pointers(need(scheduler, "scheduler").inputs, inputs, scheduler->outputs, outputs);
    scheduler->scheduler->step(id, inputs, outputs, timeout_us);
  });
}

gru_status gru_scheduler_submit(gru_scheduler* scheduler, gru_stream_id id,
                                const void* const* inputs, void* const* outputs, int64_t timeout_us,
                                gru_done_fn done, void* user) noexcept {
  return guarded([&] {
    check_pointers(need(scheduler, "scheduler").inputs, inputs, scheduler->outputs, outputs);
    if (done == nullptr) gruengine::c_api::refuse_null("done");
    auto answer = std::make_unique<Answer>(Answer{done, user});
    scheduler->scheduler->submit(id, inputs, outputs, timeout_us, &Answer::give, answer.get());
    answer.release();  // it may be gone by now: give() owns it
  });
}

gru_status gru_scheduler_get_metrics(const gru_scheduler* scheduler,
                                     gru_scheduler_metrics* metrics) noexcept {
  static_assert(SchedulerMetrics::kBuckets == GRU_METRIC_BUCKETS);
  return guarded([&] {
    const SchedulerMetrics m = need(scheduler, "scheduler").scheduler->metrics();
    const size_t size = need(metrics, "metrics").size;
    gru_scheduler_metrics own{};
    own.size = size;
    own.streams = m.streams;
    own.queued = m.queued;
    own.running = m.running;
    own.max_queued = m.max_queued;
    own.opened = m.opened;
    own.closed = m.closed;
    own.evicted = m.evicted;
    own.steps = m.steps;
    own.failed = m.failed;
    own.overloaded = m.overloaded;
    own.expired = m.expired;
    own.batches = m.batches;
    own.rows = m.rows;
    std::copy(std::begin(m.batch_sizes), std::end(m.batch_sizes), own.batch_sizes);
    std::copy(std::begin(m.latency), std::end(m.latency), own.latency);
    own.latency_seconds = m.latency_seconds;
    if (size < sizeof(size_t) || size > 4096) {
      throw Error(
          gruengine::ErrorCode::kInvalidArgument,
          "metrics.size is " + std::to_string(size) + "; it must be sizeof(gru_scheduler_metrics)");
    }
    std::memcpy(metrics, &own, std::min(size, sizeof own));
  });
}

gru_status gru_scheduler_prometheus(const gru_scheduler* scheduler, const char* labels, char* text,
                                    size_t* size) noexcept {
  return guarded([&] {
    const std::string all = gruengine::to_prometheus(
        need(scheduler, "scheduler").scheduler->metrics(), labels == nullptr ? "" : labels);
    std::vector<uint8_t> bytes(all.begin(), all.end());
    bytes.push_back(0);
    gruengine::c_api::hand_out(bytes, text, size, "text");
  });
}
