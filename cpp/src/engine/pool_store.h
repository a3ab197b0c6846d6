// SPDX-License-Identifier: MIT
// The records of many streams in one block of memory, and their ids. Guards nothing.
#pragma once

#include <vector>

#include "engine/buffer.h"
#include "gruengine/pool.h"

namespace gruengine {

class PoolStore {
 public:
  static constexpr int64_t kMostStreams = int64_t{1} << 24;

  PoolStore(int64_t record_bytes, int64_t capacity);

  int64_t capacity() const { return static_cast<int64_t>(places_.size()); }
  int64_t size() const { return size_; }
  int64_t bytes_per_stream() const;
  void grow(int64_t capacity);

  // A place whose record is undefined. Error(kOverloaded) when there is none.
  StreamId open();
  void close(StreamId id);  // of an open stream
  bool is_open(StreamId id) const { return place_of(id) >= 0; }
  std::vector<StreamId> ids() const;

  // The place of an id, in [0, capacity). Error(kInvalidArgument) when it is not open.
  int64_t place(StreamId id) const {
    const int64_t place = place_of(id);
    if (place < 0) refuse(id);
    return place;
  }
  char* record(int64_t place) const {
    return records_.data() + static_cast<size_t>(place) * record_bytes_;
  }
  // The records of n different open streams; valid until the next call or grow().
  char* const* records(const StreamId* ids, int64_t n);

 private:
  static constexpr uint32_t kLive = UINT32_MAX;  // as `next`: the place is taken
  static constexpr uint32_t kEnd = UINT32_MAX - 1;
  struct Place {
    uint32_t generation = 1;
    uint32_t next = kEnd;  // free place
    uint64_t seen = 0;     // the last call of records() that had it
  };
  int64_t place_of(StreamId id) const;
  StreamId id_of(int64_t place) const;
  [[noreturn]] void refuse(StreamId id) const;

  size_t record_bytes_;
  int64_t tag_;  // of this store, in its ids
  Buffer records_;
  std::vector<Place> places_;
  std::vector<char*> found_;
  // Places are taken in turn, so that it takes long until an id could come again.
  uint32_t first_free_ = kEnd, last_free_ = kEnd;
  int64_t size_ = 0;
  uint64_t calls_ = 0;
};

}  // namespace gruengine
