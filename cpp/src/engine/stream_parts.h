// SPDX-License-Identifier: MIT
// What the runs of a stream are made of.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>

#include "gruengine/stream.h"

namespace gruengine {

// Holds a stream for one call; a second caller is refused rather than made to wait.
class Guard {
 public:
  explicit Guard(std::atomic<bool>& busy) : busy_(busy) {
    if (busy_.exchange(true, std::memory_order_acquire)) {
      throw Error(ErrorCode::kBusy,
                  "the stream is in use by another caller; give each caller a stream of its own");
    }
  }
  ~Guard() { busy_.store(false, std::memory_order_release); }

 private:
  std::atomic<bool>& busy_;
};

inline int64_t product(const Dims& dims, size_t begin, size_t end) {
  int64_t n = 1;
  for (size_t i = begin; i < end; ++i) n *= dims[i];
  return n;
}

// The frames [first, first + tile) of an array with `frames` of them along an inner axis.
struct Window {
  int64_t outer, inner;  // repeats of the time axis; bytes of one frame in each
  Window(const StepPort& port)
      : outer(product(port.dims, 0, static_cast<size_t>(port.time_axis))),
        inner(product(port.dims, static_cast<size_t>(port.time_axis) + 1, port.dims.size()) *
              size_of(port.dtype)) {}
  void read(char* tile_at, const char* all, int64_t frames, int64_t first, int64_t tile) const {
    for (int64_t o = 0; o < outer; ++o) {
      std::memcpy(tile_at + o * tile * inner, all + (o * frames + first) * inner,
                  static_cast<size_t>(tile * inner));
    }
  }
  void write(const char* tile_at, char* all, int64_t frames, int64_t first, int64_t tile) const {
    for (int64_t o = 0; o < outer; ++o) {
      std::memcpy(all + (o * frames + first) * inner, tile_at + o * tile * inner,
                  static_cast<size_t>(tile * inner));
    }
  }
};

// The state as it was, put back unless the call came to its end.
class Undo {
 public:
  Undo(char* state, char* saved, size_t bytes) : state_(state), saved_(saved), bytes_(bytes) {
    if (bytes_ != 0) std::memcpy(saved_, state_, bytes_);
  }
  ~Undo() {
    if (!done_ && bytes_ != 0) std::memcpy(state_, saved_, bytes_);
  }
  void done() { done_ = true; }

 private:
  char *state_, *saved_;
  size_t bytes_;
  bool done_ = false;
};

}  // namespace gruengine
