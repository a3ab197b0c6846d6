// SPDX-License-Identifier: MIT
#include "engine/pool_store.h"

#include <cstring>

namespace gruengine {
namespace {

// An id: 12 bits of the store, 27 bits of the generation of its place, 24 bits of the place.
constexpr int kPlaceBits = 24, kGenerationBits = 27;
constexpr int64_t kPlaceMask = (int64_t{1} << kPlaceBits) - 1;
constexpr int64_t kGenerationMask = (int64_t{1} << kGenerationBits) - 1;
constexpr int64_t kTags = (int64_t{1} << 12) - 1;

int64_t next_tag() {
  static std::atomic<int64_t> made{0};
  return made.fetch_add(1) % kTags + 1;
}

constexpr int64_t kHugeFrom = int64_t{4} << 20;

}  // namespace

PoolStore::PoolStore(int64_t record_bytes, int64_t capacity)
    : record_bytes_(static_cast<size_t>(record_bytes)), tag_(next_tag()) {
  grow(capacity);
}

void PoolStore::grow(int64_t capacity) {
  if (capacity <= this->capacity() || capacity > kMostStreams) {
    throw Error(ErrorCode::kInvalidArgument,
                "capacity is " + std::to_string(capacity) + "; it must be from " +
                    std::to_string(this->capacity() + 1) + " to " + std::to_string(kMostStreams));
  }
  const int64_t bytes = static_cast<int64_t>(record_bytes_) * capacity;
  Buffer records(static_cast<size_t>(bytes), bytes >= kHugeFrom);
  const auto before = places_.size();
  found_.resize(static_cast<size_t>(capacity));
  places_.resize(static_cast<size_t>(capacity));
  if (before > 0 && record_bytes_ > 0) {
    std::memcpy(records.data(), records_.data(), before * record_bytes_);
  }
  records_ = std::move(records);
  for (size_t place = before; place < places_.size(); ++place) {
    (last_free_ == kEnd ? first_free_ : places_[last_free_].next) = static_cast<uint32_t>(place);
    last_free_ = static_cast<uint32_t>(place);
  }
}

int64_t PoolStore::bytes_per_stream() const {
  return static_cast<int64_t>(record_bytes_ + sizeof(Place) + sizeof(char*));
}

StreamId PoolStore::id_of(int64_t place) const {
  const auto generation = static_cast<int64_t>(places_[static_cast<size_t>(place)].generation);
  return (tag_ << (kPlaceBits + kGenerationBits)) | (generation << kPlaceBits) | place;
}

int64_t PoolStore::place_of(StreamId id) const {
  const int64_t place = id & kPlaceMask;
  if (place >= capacity()) return -1;
  const Place& at = places_[static_cast<size_t>(place)];
  return at.next == kLive && id == id_of(place) ? place : -1;
}

void PoolStore::refuse(StreamId id) const {
  std::string why = "never was the id of a stream";
  if (id > 0) {
    const int64_t place = id & kPlaceMask;
    const int64_t generation = (id >> kPlaceBits) & kGenerationMask;
    if ((id >> (kPlaceBits + kGenerationBits)) != tag_) {
      why = "belongs to another pool, or is no id";
    } else if (place < capacity() &&
               generation <= static_cast<int64_t>(places_[static_cast<size_t>(place)].generation)) {
      why = "is of a stream that was closed";
    }
  }
  throw Error(ErrorCode::kInvalidArgument,
              "id " + std::to_string(id) + " " + why + "; " + std::to_string(size_) +
                  (size_ == 1 ? " stream is open" : " streams are open"));
}

StreamId PoolStore::open() {
  if (first_free_ == kEnd) {
    throw Error(ErrorCode::kOverloaded, "all " + std::to_string(capacity()) +
                                            " places are taken; close streams or grow the pool");
  }
  const uint32_t place = first_free_;
  first_free_ = places_[place].next;
  if (first_free_ == kEnd) last_free_ = kEnd;
  places_[place].next = kLive;
  ++size_;
  return id_of(place);
}

void PoolStore::close(StreamId id) {
  const auto place = static_cast<uint32_t>(this->place(id));
  Place& at = places_[place];
  at.generation = at.generation == kGenerationMask ? 1 : at.generation + 1;
  at.next = kEnd;
  (last_free_ == kEnd ? first_free_ : places_[last_free_].next) = place;
  last_free_ = place;
  --size_;
}

std::vector<StreamId> PoolStore::ids() const {
  std::vector<StreamId> ids;
  for (int64_t place = 0; place < capacity(); ++place) {
    if (places_[static_cast<size_t>(place)].next == kLive) ids.push_back(id_of(place));
  }
  return ids;
}

char* const* PoolStore::records(const StreamId* ids, int64_t n) {
  ++calls_;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t place = this->place(ids[i]);
    Place& at = places_[static_cast<size_t>(place)];
    if (at.seen == calls_) {
      throw Error(ErrorCode::kInvalidArgument,
                  "id " + std::to_string(ids[i]) + " occurs twice; each stream may occur once");
    }
    at.seen = calls_;
    found_[static_cast<size_t>(i)] = record(place);  // n cannot pass the capacity: ids differ
  }
  return found_.data();
}

}  // namespace gruengine
