// SPDX-License-Identifier: MIT
#include "gruengine/pool.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "engine/pool_batch.h"
#include "engine/pool_store.h"
#include "engine/state.h"

namespace gruengine {
namespace {

// Holds a pool for one call; a second caller is refused rather than made to wait.
class Guard {
 public:
  explicit Guard(std::atomic<bool>& busy) : busy_(busy) {
    if (busy_.exchange(true, std::memory_order_acquire)) {
      throw Error(
          ErrorCode::kBusy,
          "the pool is in use by another caller; give each thread a pool of its own, or use "
          "a scheduler");
    }
  }
  ~Guard() { busy_.store(false, std::memory_order_release); }

 private:
  std::atomic<bool>& busy_;
};

}  // namespace

struct Pool::Impl {
  Impl(std::shared_ptr<const PoolLayout> of, int64_t capacity)
      : layout(std::move(of)),
        store(layout->record_bytes, capacity),
        batch(layout, capacity, layout->model()->num_threads()),
        block(static_cast<size_t>(layout->one()->state_bytes)) {}

  std::shared_ptr<const PoolLayout> layout;
  PoolStore store;
  PoolBatch batch;
  Buffer block;  // of one row

  StreamId open_from(const char* record) {
    const StreamId id = store.open();
    std::memcpy(store.record(store.place(id)), record, static_cast<size_t>(layout->record_bytes));
    return id;
  }
};

Pool::Pool(std::shared_ptr<const Model> model, int64_t capacity,
           const std::map<std::string, int64_t>& sizes)
    : impl_(std::make_unique<Impl>(std::make_shared<PoolLayout>(std::move(model), sizes),
                                   capacity)) {}
Pool::~Pool() = default;

const Model& Pool::model() const { return *impl_->layout->model(); }
int64_t Pool::capacity() const { return impl_->store.capacity(); }
int64_t Pool::size() const { return impl_->store.size(); }
int64_t Pool::bytes_per_stream() const { return impl_->store.bytes_per_stream(); }
const std::vector<PoolPort>& Pool::inputs() const { return impl_->layout->inputs; }
const std::vector<PoolPort>& Pool::outputs() const { return impl_->layout->outputs; }

int64_t Pool::state_bytes() const {
  int64_t bytes = 0;
  for (const PoolEntry& e : impl_->layout->entries) bytes += e.bytes();
  return bytes;
}

void Pool::grow(int64_t capacity) {
  const Guard guard(busy_);
  PoolBatch batch(impl_->layout, capacity, impl_->layout->model()->num_threads());
  impl_->store.grow(capacity);
  impl_->batch = std::move(batch);
}

StreamId Pool::open() {
  const Guard guard(busy_);
  return impl_->open_from(impl_->layout->initial.data());
}

StreamId Pool::open(const uint8_t* state, size_t size) {
  const Guard guard(busy_);
  Impl& impl = *impl_;
  unpack_state(model().hash(), *impl.layout->one(), state, size, impl.block.data());
  const StreamId id = impl.store.open();
  impl.layout->from_block(impl.block.data(), impl.store.record(impl.store.place(id)));
  return id;
}

void Pool::close(const StreamId* ids, int64_t n) {
  const Guard guard(busy_);
  impl_->store.records(ids, n);  // all or none
  for (int64_t i = 0; i < n; ++i) impl_->store.close(ids[i]);
}

bool Pool::is_open(StreamId id) const {
  const Guard guard(busy_);
  return impl_->store.is_open(id);
}

std::vector<StreamId> Pool::ids() const {
  const Guard guard(busy_);
  return impl_->store.ids();
}

void Pool::reset(const StreamId* ids, int64_t n) {
  const Guard guard(busy_);
  char* const* records = impl_->store.records(ids, n);
  const std::vector<char>& initial = impl_->layout->initial;
  for (int64_t i = 0; i < n; ++i) {
    if (!initial.empty()) std::memcpy(records[i], initial.data(), initial.size());
  }
}

void Pool::fork(const StreamId* ids, int64_t n, StreamId* copies) {
  const Guard guard(busy_);
  PoolStore& store = impl_->store;
  for (int64_t i = 0; i < n; ++i) store.place(ids[i]);
  if (n > store.capacity() - store.size()) {
    throw Error(ErrorCode::kOverloaded, std::to_string(n) + " forks; " +
                                            std::to_string(store.capacity() - store.size()) +
                                            " of " + std::to_string(store.capacity()) +
                                            " places are free; close streams or grow the pool");
  }
  for (int64_t i = 0; i < n; ++i) copies[i] = impl_->open_from(store.record(store.place(ids[i])));
}

void Pool::step(const StreamId* ids, int64_t n, const void* const* inputs, void* const* outputs) {
  const Guard guard(busy_);
  impl_->batch.step({n, impl_->store.records(ids, n), inputs, outputs, false});
}

void Pool::run(const StreamId* ids, int64_t n, const int64_t* frames, const void* const* inputs,
               void* const* outputs) {
  const Guard guard(busy_);
  char* const* records = impl_->store.records(ids, n);
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return frames[a] > frames[b]; });
  const size_t ins = impl_->layout->ins.size(), outs = impl_->layout->outs.size();
  std::vector<char*> sorted;
  std::vector<int64_t> lengths;
  std::vector<const void*> in;
  std::vector<void*> out;
  for (const int64_t i : order) {
    const auto row = static_cast<size_t>(i);
    if (frames[i] < 0) {
      throw Error(ErrorCode::kInvalidArgument,
                  std::to_string(frames[i]) + " frames; there must be 0 or more");
    }
    sorted.push_back(records[i]);
    lengths.push_back(frames[i]);
    in.insert(in.end(), inputs + row * ins, inputs + (row + 1) * ins);
    out.insert(out.end(), outputs + row * outs, outputs + (row + 1) * outs);
  }
  impl_->batch.run({n, sorted.data(), in.data(), out.data(), true}, lengths.data());
}

std::vector<uint8_t> Pool::get_state(StreamId id) const {
  const Guard guard(busy_);
  const Impl& impl = *impl_;
  impl.layout->to_block(impl.store.record(impl.store.place(id)), impl.block.data());
  return pack_state(model().hash(), *impl.layout->one(), impl.block.data());
}

void Pool::set_state(StreamId id, const uint8_t* bytes, size_t size) {
  const Guard guard(busy_);
  const Impl& impl = *impl_;
  char* record = impl.store.record(impl.store.place(id));
  unpack_state(model().hash(), *impl.layout->one(), bytes, size, impl.block.data());
  impl.layout->from_block(impl.block.data(), record);
}

std::vector<StateEntry> Pool::state_layout() const { return entries_of(*impl_->layout->one()); }

int Pool::state_row_axis(size_t entry) const { return impl_->layout->entries.at(entry).row_axis; }

void Pool::read_entry(size_t entry, const StreamId* ids, int64_t n, void* to) const {
  const Guard guard(busy_);
  const PoolEntry& e = impl_->layout->entries.at(entry);
  char* const* records = impl_->store.records(ids, n);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t o = 0; o < e.outer; ++o) {
      std::memcpy(static_cast<char*>(to) + (o * n + i) * e.inner,
                  records[i] + e.offset + o * e.inner, static_cast<size_t>(e.inner));
    }
  }
}

void Pool::write_entry(size_t entry, const StreamId* ids, int64_t n, const void* from) {
  const Guard guard(busy_);
  const PoolEntry& e = impl_->layout->entries.at(entry);
  char* const* records = impl_->store.records(ids, n);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t o = 0; o < e.outer; ++o) {
      std::memcpy(records[i] + e.offset + o * e.inner,
                  static_cast<const char*>(from) + (o * n + i) * e.inner,
                  static_cast<size_t>(e.inner));
    }
  }
}

}  // namespace gruengine
