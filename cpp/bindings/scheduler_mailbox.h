// SPDX-License-Identifier: MIT
// What a Python scheduler needs beside the C++ one: answers collected for an event loop, and plain
// functions as callbacks.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "gruengine/scheduler.h"

namespace gruengine {

// Answers of steps, kept until an event loop fetches them. Writes to a file descriptor (an eventfd,
// or a pipe) when the first arrives, so that a batch wakes the loop once.
class Mailbox {
 public:
  struct Answer {
    uint64_t key = 0;
    bool failed = false;
    ErrorCode code = ErrorCode::kInternal;
    std::string message;
  };

  explicit Mailbox(int fd) : fd_(fd) {}

  void submit(Scheduler& scheduler, uint64_t key, StreamId id, const void* const* inputs,
              void* const* outputs, int64_t timeout_us) {
    auto letter = std::make_unique<Letter>(Letter{this, key});
    scheduler.submit(id, inputs, outputs, timeout_us, &Mailbox::receive, letter.get());
    letter.release();
  }

  std::vector<Answer> collect() {
    const std::lock_guard lock(mutex_);
    return std::exchange(answers_, {});
  }

  static void raise(const Answer& answer) { throw Error(answer.code, answer.message); }
  void raise_error(const Answer& answer) { raise(answer); }

 private:
  struct Letter {
    Mailbox* mailbox;
    uint64_t key;
  };

  static void receive(void* context, const Error* error) {
    const std::unique_ptr<Letter> letter(static_cast<Letter*>(context));
    Answer answer{letter->key, error != nullptr, ErrorCode::kInternal, {}};
    if (error != nullptr) {
      answer.code = error->code();
      answer.message = error->what();
    }
    letter->mailbox->put(std::move(answer));
  }

  void put(Answer answer) {
    const std::lock_guard lock(mutex_);
    answers_.push_back(std::move(answer));
    if (answers_.size() > 1) return;
    const uint64_t one = 1;
    // A full pipe is readable already; a closed one has nobody to wake.
    [[maybe_unused]] const auto written = write(fd_, &one, sizeof one);
  }

  int fd_;
  std::mutex mutex_;
  std::vector<Answer> answers_;
};

using EvictCall = void (*)(void* function, int64_t id, const uint8_t* state, size_t size);
inline void call_on_evict(SchedulerOptions& options, EvictCall call, void* function) {
  options.on_evict = [=](StreamId id, const std::vector<uint8_t>& state) {
    call(function, id, state.data(), state.size());
  };
}

// Not 0: the batch must not run, for the reason given.
using BatchCall = int (*)(void* function, int64_t rows, std::string* why);
inline void call_on_batch(SchedulerOptions& options, BatchCall call, void* function) {
  options.on_batch = [=](int64_t rows) {
    std::string why;
    if (call(function, rows, &why) != 0) throw Error(ErrorCode::kInternal, why);
  };
}

}  // namespace gruengine
