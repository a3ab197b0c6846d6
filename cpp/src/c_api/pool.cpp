// SPDX-License-Identifier: MIT
#include "gruengine/pool.h"

#include "c_api/handles.h"

using gruengine::Error;
using gruengine::ErrorCode;
using gruengine::Pool;
using gruengine::c_api::check_pointers;
using gruengine::c_api::guarded;
using gruengine::c_api::need;
using gruengine::c_api::port_at;

struct gru_pool {
  std::unique_ptr<Pool> pool;
  gruengine::c_api::Ports inputs, outputs;
};

namespace {

const int64_t* ids_of(const gru_stream_id* ids, int64_t n) {
  if (n < 0) {
    throw Error(ErrorCode::kInvalidArgument,
                "n is " + std::to_string(n) + "; it must be 0 or more");
  }
  if (n > 0) need(ids, "ids");
  return ids;
}

}  // namespace

gru_status gru_pool_create(const gru_model* model, int64_t capacity, const gru_size* sizes,
                           size_t num_sizes, gru_pool** pool) noexcept {
  return guarded([&] {
    need(pool, "pool") = nullptr;
    auto made = std::make_unique<gru_pool>();
    made->pool = std::make_unique<Pool>(need(model, "model").model, capacity,
                                        gruengine::c_api::sizes_of(sizes, num_sizes));
    made->inputs.add(made->pool->inputs());
    made->outputs.add(made->pool->outputs());
    *pool = made.release();
  });
}

void gru_pool_free(gru_pool* pool) noexcept { delete pool; }

gru_status gru_pool_grow(gru_pool* pool, int64_t capacity) noexcept {
  return guarded([&] { need(pool, "pool").pool->grow(capacity); });
}

int64_t gru_pool_capacity(const gru_pool* pool) noexcept {
  return pool == nullptr ? 0 : pool->pool->capacity();
}
int64_t gru_pool_size(const gru_pool* pool) noexcept {
  return pool == nullptr ? 0 : pool->pool->size();
}
int64_t gru_pool_bytes_per_stream(const gru_pool* pool) noexcept {
  return pool == nullptr ? 0 : pool->pool->bytes_per_stream();
}
const gru_port* gru_pool_input(const gru_pool* pool, size_t i) noexcept {
  return port_at(pool, &gru_pool::inputs, i);
}
const gru_port* gru_pool_output(const gru_pool* pool, size_t i) noexcept {
  return port_at(pool, &gru_pool::outputs, i);
}

gru_status gru_pool_open(gru_pool* pool, const void* state, size_t size,
                         gru_stream_id* id) noexcept {
  return guarded([&] {
    Pool& p = *need(pool, "pool").pool;
    const auto* bytes = static_cast<const uint8_t*>(state);
    need(id, "id") = bytes == nullptr ? p.open() : p.open(bytes, size);
  });
}

gru_status gru_pool_close(gru_pool* pool, const gru_stream_id* ids, int64_t n) noexcept {
  return guarded([&] { need(pool, "pool").pool->close(ids_of(ids, n), n); });
}

gru_status gru_pool_reset(gru_pool* pool, const gru_stream_id* ids, int64_t n) noexcept {
  return guarded([&] { need(pool, "pool").pool->reset(ids_of(ids, n), n); });
}

gru_status gru_pool_fork(gru_pool* pool, const gru_stream_id* ids, int64_t n,
                         gru_stream_id* copies) noexcept {
  return guarded([&] {
    if (n > 0) need(copies, "copies");
    need(pool, "pool").pool->fork(ids_of(ids, n), n, copies);
  });
}

int32_t gru_pool_is_open(const gru_pool* pool, gru_stream_id id) noexcept {
  bool open = false;
  guarded([&] { open = need(pool, "pool").pool->is_open(id); });
  return open ? 1 : 0;
}

gru_status gru_pool_ids(const gru_pool* pool, gru_stream_id* ids, int64_t* n) noexcept {
  return guarded([&] {
    const auto open = need(pool, "pool").pool->ids();
    const int64_t room = need(n, "n");
    *n = static_cast<int64_t>(open.size());
    if (room < *n) {
      throw Error(ErrorCode::kInvalidArgument, "there is room for " + std::to_string(room) +
                                                   " ids; the pool has " + std::to_string(*n));
    }
    if (*n > 0) std::copy(open.begin(), open.end(), &need(ids, "ids"));
  });
}

gru_status gru_pool_step(gru_pool* pool, const gru_stream_id* ids, int64_t n,
                         const void* const* inputs, void* const* outputs) noexcept {
  return guarded([&] {
    check_pointers(need(pool, "pool").inputs, inputs, pool->outputs, outputs);
    pool->pool->step(ids_of(ids, n), n, inputs, outputs);
  });
}

gru_status gru_pool_run(gru_pool* pool, const gru_stream_id* ids, int64_t n, const int64_t* frames,
                        const void* const* inputs, void* const* outputs) noexcept {
  return guarded([&] {
    Pool& p = *need(pool, "pool").pool;
    ids_of(ids, n);
    if (n > 0) need(frames, "frames");
    const auto rows = static_cast<size_t>(n);
    for (size_t i = 0; i < rows; ++i) {
      if (frames[i] == 0) continue;
      check_pointers(pool->inputs, inputs == nullptr ? nullptr : inputs + i * pool->inputs.size(),
                     pool->outputs,
                     outputs == nullptr ? nullptr : outputs + i * pool->outputs.size());
    }
    p.run(ids, n, frames, inputs, outputs);
  });
}

gru_status gru_pool_get_state(const gru_pool* pool, gru_stream_id id, void* buffer,
                              size_t* size) noexcept {
  return guarded([&] {
    gruengine::c_api::hand_out(need(pool, "pool").pool->get_state(id), buffer, size, "state");
  });
}

gru_status gru_pool_set_state(gru_pool* pool, gru_stream_id id, const void* bytes,
                              size_t size) noexcept {
  return guarded([&] {
    const auto* first = &need(static_cast<const uint8_t*>(bytes), "bytes");
    need(pool, "pool").pool->set_state(id, first, size);
  });
}
