/* SPDX-License-Identifier: MIT */
/* The part of the C API that serves many streams: pools and schedulers. Included by gruengine.h. */
#ifndef GRUENGINE_GRUENGINE_POOL_H_
#define GRUENGINE_GRUENGINE_POOL_H_

#include "gruengine/gruengine.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A stream of one pool or scheduler. Positive; ids of closed streams are told apart from live ones.
 */
typedef int64_t gru_stream_id;

/* -- pools --------------------------------------------------------------------------------------*/

/* Many streams of one model, any subset of them stepped as one batch, each with the bits of a
 * stream of its own. A call that fails leaves every stream as it was. One caller at a time: a
 * second gets GRU_BUSY. */
typedef struct gru_pool gru_pool;

/* `capacity`: streams open at once. All memory is taken here and in gru_pool_grow. `sizes`: values
 * for sizes that the model leaves open beside rows and time. */
GRUENGINE_API gru_status gru_pool_create(const gru_model* model, int64_t capacity,
                                         const gru_size* sizes, size_t num_sizes,
                                         gru_pool** pool) GRU_NOEXCEPT;
GRUENGINE_API void gru_pool_free(gru_pool* pool) GRU_NOEXCEPT;
GRUENGINE_API gru_status gru_pool_grow(gru_pool* pool, int64_t capacity) GRU_NOEXCEPT;
GRUENGINE_API int64_t gru_pool_capacity(const gru_pool* pool) GRU_NOEXCEPT;
GRUENGINE_API int64_t gru_pool_size(const gru_pool* pool) GRU_NOEXCEPT; /* open streams */
/* Bytes that the pool takes for one stream. */
GRUENGINE_API int64_t gru_pool_bytes_per_stream(const gru_pool* pool) GRU_NOEXCEPT;

/* Ports of a step of one stream; n streams have n in place of dims[row_axis]. NULL past the last.
 */
GRUENGINE_API const gru_port* gru_pool_input(const gru_pool* pool, size_t i) GRU_NOEXCEPT;
GRUENGINE_API const gru_port* gru_pool_output(const gru_pool* pool, size_t i) GRU_NOEXCEPT;

/* A new stream in a saved state, or in the initial one when `state` is NULL. GRU_OVERLOADED when
 * the pool is full. */
GRUENGINE_API gru_status gru_pool_open(gru_pool* pool, const void* state, size_t size,
                                       gru_stream_id* id) GRU_NOEXCEPT;
GRUENGINE_API gru_status gru_pool_close(gru_pool* pool, const gru_stream_id* ids,
                                        int64_t n) GRU_NOEXCEPT;
GRUENGINE_API gru_status gru_pool_reset(gru_pool* pool, const gru_stream_id* ids,
                                        int64_t n) GRU_NOEXCEPT;
/* copies[i]: a new stream in the state of ids[i]. */
GRUENGINE_API gru_status gru_pool_fork(gru_pool* pool, const gru_stream_id* ids, int64_t n,
                                       gru_stream_id* copies) GRU_NOEXCEPT;
/* 1 or 0. */
GRUENGINE_API int32_t gru_pool_is_open(const gru_pool* pool, gru_stream_id id) GRU_NOEXCEPT;
/* The open streams. `n`: room in `ids` before the call, open streams after it. */
GRUENGINE_API gru_status gru_pool_ids(const gru_pool* pool, gru_stream_id* ids,
                                      int64_t* n) GRU_NOEXCEPT;

/* One step of n different streams, in any order. inputs[p]: port p with n rows, row i being that of
 * ids[i]; outputs[p] likewise, overlapping nothing. */
GRUENGINE_API gru_status gru_pool_step(gru_pool* pool, const gru_stream_id* ids, int64_t n,
                                       const void* const* inputs,
                                       void* const* outputs) GRU_NOEXCEPT;
/* frames[i] steps of stream i. inputs[i * P + p]: port p of P of stream i alone, as in
 * gru_stream_run with frames[i] frames; outputs likewise. */
GRUENGINE_API gru_status gru_pool_run(gru_pool* pool, const gru_stream_id* ids, int64_t n,
                                      const int64_t* frames, const void* const* inputs,
                                      void* const* outputs) GRU_NOEXCEPT;

/* Saves a state: the bytes of gru_stream_get_state of a stream with one row. `size`: room in
 * `buffer` before the call, bytes of the state after it; `buffer` may be NULL to ask. */
GRUENGINE_API gru_status gru_pool_get_state(const gru_pool* pool, gru_stream_id id, void* buffer,
                                            size_t* size) GRU_NOEXCEPT;
GRUENGINE_API gru_status gru_pool_set_state(gru_pool* pool, gru_stream_id id, const void* bytes,
                                            size_t size) GRU_NOEXCEPT;

/* -- schedulers ---------------------------------------------------------------------------------*/

/* Steps of many streams from many threads, run in batches as they arrive. Every call may come from
 * any thread; steps of one stream run in the order they were given. */
typedef struct gru_scheduler gru_scheduler;

/* A stream that was evicted, and its saved state, valid during the call. By a worker. */
typedef void (*gru_evict_fn)(void* user, gru_stream_id id, const void* state, size_t size);
/* A step that was done (GRU_OK) or not; `message` is valid during the call. By a worker; it may
 * submit, but not wait for, other steps. */
typedef void (*gru_done_fn)(void* user, gru_status status, const char* message);

typedef struct gru_scheduler_options {
  size_t size;             /* sizeof(gru_scheduler_options) */
  int64_t max_streams;     /* open at once */
  int64_t max_batch;       /* rows of one batch */
  int64_t max_wait_us;     /* how long a step may wait for others to join; 0: never */
  int64_t max_queue;       /* steps waiting at once; 0: twice max_streams */
  int64_t idle_timeout_us; /* streams without a step for so long are evicted; 0: never */
  int32_t num_threads;     /* batches run at once */
  const gru_size* sizes;
  size_t num_sizes;
  gru_evict_fn on_evict; /* may be NULL */
  void* user;            /* of on_evict */
} gru_scheduler_options;

#define GRU_SCHEDULER_OPTIONS_INIT \
  {sizeof(gru_scheduler_options), 1024, 64, 0, 0, 0, 1, NULL, 0, NULL, NULL}

enum { GRU_METRIC_BUCKETS = 32 };

/* Gauges, and counters since the start. */
typedef struct gru_scheduler_metrics {
  size_t size;                      /* sizeof(gru_scheduler_metrics) */
  int64_t streams, queued, running; /* now */
  int64_t max_queued;
  int64_t opened, closed, evicted;
  int64_t steps, failed, overloaded, expired, batches;
  int64_t rows; /* of all batches */
  /* [k]: batches of up to 2^k rows and more than 2^(k-1). */
  int64_t batch_sizes[GRU_METRIC_BUCKETS];
  /* [k]: steps answered within 2^k microseconds, and not within 2^(k-1). */
  int64_t latency[GRU_METRIC_BUCKETS];
  double latency_seconds; /* sum */
} gru_scheduler_metrics;

/* `options` may be NULL. */
GRUENGINE_API gru_status gru_scheduler_create(const gru_model* model,
                                              const gru_scheduler_options* options,
                                              gru_scheduler** scheduler) GRU_NOEXCEPT;
/* Ends the workers; steps that wait are answered with GRU_CLOSED. No other call may be under way.
 */
GRUENGINE_API void gru_scheduler_free(gru_scheduler* scheduler) GRU_NOEXCEPT;
/* Takes no more steps; `drain` other than 0: those given are done first. */
GRUENGINE_API gru_status gru_scheduler_shutdown(gru_scheduler* scheduler,
                                                int32_t drain) GRU_NOEXCEPT;
/* 0 once it is shut down or has failed. */
GRUENGINE_API int32_t gru_scheduler_is_open(const gru_scheduler* scheduler) GRU_NOEXCEPT;

/* Ports of one stream. NULL past the last. */
GRUENGINE_API const gru_port* gru_scheduler_input(const gru_scheduler* scheduler,
                                                  size_t i) GRU_NOEXCEPT;
GRUENGINE_API const gru_port* gru_scheduler_output(const gru_scheduler* scheduler,
                                                   size_t i) GRU_NOEXCEPT;

GRUENGINE_API gru_status gru_scheduler_open(gru_scheduler* scheduler, const void* state,
                                            size_t size, gru_stream_id* id) GRU_NOEXCEPT;
/* Steps of it that wait are answered with GRU_INVALID_ARGUMENT. */
GRUENGINE_API gru_status gru_scheduler_close(gru_scheduler* scheduler,
                                             gru_stream_id id) GRU_NOEXCEPT;
/* As gru_pool_get_state, between the steps of the stream. */
GRUENGINE_API gru_status gru_scheduler_get_state(const gru_scheduler* scheduler, gru_stream_id id,
                                                 void* buffer, size_t* size) GRU_NOEXCEPT;
GRUENGINE_API gru_status gru_scheduler_set_state(gru_scheduler* scheduler, gru_stream_id id,
                                                 const void* bytes, size_t size) GRU_NOEXCEPT;

/* One step, waited for. `timeout_us` > 0: GRU_DEADLINE unless a worker took the step by then.
 * GRU_OVERLOADED: the queue is full. */
GRUENGINE_API gru_status gru_scheduler_step(gru_scheduler* scheduler, gru_stream_id id,
                                            const void* const* inputs, void* const* outputs,
                                            int64_t timeout_us) GRU_NOEXCEPT;
/* The same without waiting: `done` is called once when this returns GRU_OK, and not otherwise. The
 * arrays must live until then. */
GRUENGINE_API gru_status gru_scheduler_submit(gru_scheduler* scheduler, gru_stream_id id,
                                              const void* const* inputs, void* const* outputs,
                                              int64_t timeout_us, gru_done_fn done,
                                              void* user) GRU_NOEXCEPT;

/* `metrics->size` must be set. */
GRUENGINE_API gru_status gru_scheduler_get_metrics(const gru_scheduler* scheduler,
                                                   gru_scheduler_metrics* metrics) GRU_NOEXCEPT;
/* The same in the text format of Prometheus, ended by a zero byte. `labels` such as `model="a"` are
 * put into every line; NULL: none. `size`: room in `text` before the call, bytes of it after it. */
GRUENGINE_API gru_status gru_scheduler_prometheus(const gru_scheduler* scheduler,
                                                  const char* labels, char* text,
                                                  size_t* size) GRU_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#endif /* GRUENGINE_GRUENGINE_POOL_H_ */
