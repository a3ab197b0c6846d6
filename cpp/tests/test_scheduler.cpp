// SPDX-License-Identifier: MIT
// The scheduler under 16 threads: every step answered once, in order, with the bits of a stream
// alone. Meant for -fsanitize=thread as much as for its checks.
#include <atomic>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "check.h"
#include "gruengine/scheduler.h"
#include "gruengine/stream.h"
#include "small_model.h"

namespace gruengine {
namespace {

constexpr int kInputs = 5, kHidden = 7, kThreads = 16;
using Input = std::vector<float>;

std::shared_ptr<const Model> lstm() {
  size_t size = 0;
  const uint8_t* bytes = small_lstm(kInputs, kHidden, 3, &size);
  return Model::from_memory({bytes, bytes + size});
}

Input draw(std::mt19937& random) {
  std::uniform_real_distribution<float> values(-1.0f, 1.0f);
  Input x(kInputs);
  for (float& value : x) value = values(random);
  return x;
}

// A stream of the scheduler and one of its own, which must agree.
struct Twin {
  StreamId id;
  std::unique_ptr<Stream> alone;
};

void expect_output(Twin& twin, const Input& x, const Input& y) {
  Input wanted(kHidden);
  const void* in = x.data();
  void* out = wanted.data();
  twin.alone->step(&in, &out);
  CHECK(std::memcmp(wanted.data(), y.data(), sizeof(float) * kHidden) == 0, "another number");
}

struct Async {
  Input x, y = Input(kHidden);
  std::atomic<int> answers{0};
  static void done(void* context, const Error* error) {
    CHECK(error == nullptr, "%s", error->what());
    static_cast<Async*>(context)->answers.fetch_add(1, std::memory_order_release);
  }
};

void step_async(Scheduler& scheduler, Twin& twin, std::mt19937& random) {
  std::vector<Async> steps(1 + random() % 5);
  for (Async& step : steps) {
    step.x = draw(random);
    const void* in = step.x.data();
    void* out = step.y.data();
    scheduler.submit(twin.id, &in, &out, 0, &Async::done, &step);
  }
  for (Async& step : steps) {
    while (step.answers.load(std::memory_order_acquire) == 0) std::this_thread::yield();
    expect_output(twin, step.x, step.y);
  }
}

void step(Scheduler& scheduler, Twin& twin, std::mt19937& random) {
  const Input x = draw(random);
  Input y(kHidden);
  const void* in = x.data();
  void* out = y.data();
  scheduler.step(twin.id, &in, &out);
  expect_output(twin, x, y);
}

void live(Scheduler& scheduler, const std::shared_ptr<const Model>& model, unsigned seed,
          int rounds) {
  std::mt19937 random(seed);
  std::vector<Twin> twins;
  const auto open = [&] {
    twins.push_back(
        {scheduler.open(), std::make_unique<Stream>(model, 1, std::map<std::string, int64_t>())});
  };
  open();
  for (int round = 0; round < rounds; ++round) {
    Twin& twin = twins[random() % twins.size()];
    switch (random() % 8) {
      case 0:
        if (twins.size() < 4) open();
        break;
      case 1:
        if (twins.size() > 1) {
          std::swap(twin, twins.back());
          scheduler.close(twins.back().id);
          twins.pop_back();
        }
        break;
      case 2:
        CHECK(scheduler.get_state(twin.id) == twin.alone->get_state(), "another state");
        break;
      case 3:
        step_async(scheduler, twin, random);
        break;
      case 4:
        CHECK(scheduler.metrics().streams > 0, "no streams");
        break;
      default:
        step(scheduler, twin, random);
    }
  }
  for (const Twin& twin : twins) scheduler.close(twin.id);
}

void test_threads(int workers, int64_t max_wait_us, int rounds) {
  const auto model = lstm();
  SchedulerOptions options;
  options.max_streams = 4 * kThreads;
  options.max_batch = 8;
  options.max_wait_us = max_wait_us;
  options.num_threads = workers;
  options.max_queue = 1024;
  Scheduler scheduler(model, options);
  std::vector<std::thread> threads;
  for (unsigned k = 0; k < kThreads; ++k) {
    threads.emplace_back([&, k] { live(scheduler, model, k, rounds); });
  }
  for (std::thread& thread : threads) thread.join();
  const SchedulerMetrics metrics = scheduler.metrics();
  CHECK(metrics.streams == 0 && metrics.queued == 0 && metrics.running == 0, "something is left");
  CHECK(metrics.steps == metrics.rows && metrics.failed == 0, "steps were lost");
  CHECK(metrics.batches > 0 && metrics.batches <= metrics.rows, "batches");
}

struct Count {
  std::atomic<int> done{0}, closed{0}, other{0};
  static void count(void* context, const Error* error) {
    auto* self = static_cast<Count*>(context);
    const bool closed = error != nullptr && error->code() == ErrorCode::kClosed;
    (error == nullptr ? self->done : closed ? self->closed : self->other).fetch_add(1);
  }
};

// Threads give steps while another shuts down: each that was taken is answered, once.
void test_shutdown(bool drain) {
  const auto model = lstm();
  SchedulerOptions options;
  options.num_threads = 2;
  options.max_queue = 4096;
  Scheduler scheduler(model, options);
  Count count;
  std::atomic<int> given{0};
  const Input x(kInputs, 0.5f);
  std::vector<std::vector<float>> outputs(kThreads, Input(kHidden));
  std::vector<std::thread> threads;
  for (int k = 0; k < kThreads; ++k) {
    threads.emplace_back([&, k] {
      try {
        const StreamId id = scheduler.open();
        for (int i = 0; i < 200; ++i) {
          const void* in = x.data();
          void* out = outputs[static_cast<size_t>(k)].data();
          scheduler.submit(id, &in, &out, 0, &Count::count, &count);
          given.fetch_add(1);
        }
      } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::kClosed || error.code() == ErrorCode::kOverloaded, "%s",
              error.what());
      }
    });
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  scheduler.shutdown(drain);
  for (std::thread& thread : threads) thread.join();
  CHECK(count.done + count.closed == given && count.other == 0, "%d given, %d done, %d closed",
        given.load(), count.done.load(), count.closed.load());
  if (drain) CHECK(count.closed == 0, "%d steps were lost", count.closed.load());
}

// A worker that fails mid-way: every step that waits, and each later one, gets its error.
void test_failure() {
  const auto model = lstm();
  SchedulerOptions options;
  options.max_batch = 4;
  std::atomic<int> batches{0};
  options.on_batch = [&](int64_t) {
    if (batches.fetch_add(1) == 20) throw Error(ErrorCode::kInternal, "the worker was killed");
  };
  Scheduler scheduler(model, options);
  std::atomic<int> failed{0};
  std::vector<std::thread> threads;
  for (unsigned k = 0; k < kThreads; ++k) {
    threads.emplace_back([&, k] {
      std::mt19937 random(k);
      try {
        Twin twin{scheduler.open(),
                  std::make_unique<Stream>(model, 1, std::map<std::string, int64_t>())};
        for (;;) step(scheduler, twin, random);
      } catch (const Error& error) {
        CHECK(std::string(error.what()) == "the worker was killed", "%s", error.what());
        failed.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(failed == kThreads, "%d callers were told", failed.load());
  CHECK(!scheduler.is_open(), "it goes on");
}

void test_eviction() {
  const auto model = lstm();
  SchedulerOptions options;
  options.idle_timeout_us = 20000;
  std::atomic<int> evicted{0};
  options.on_evict = [&](StreamId, const std::vector<uint8_t>& state) {
    CHECK(state.size() > 64, "%zu bytes", state.size());
    evicted.fetch_add(1);
  };
  Scheduler scheduler(model, options);
  for (int k = 0; k < 10; ++k) scheduler.open();
  while (evicted < 10) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK(scheduler.metrics().streams == 0 && scheduler.metrics().evicted == 10, "not evicted");
}

}  // namespace
}  // namespace gruengine

int main() {
  using namespace gruengine;
  test_threads(1, 0, 150);
  test_threads(3, 0, 150);
  test_threads(2, 200, 60);
  test_shutdown(true);
  test_shutdown(false);
  test_failure();
  test_eviction();
  return REPORT();
}
