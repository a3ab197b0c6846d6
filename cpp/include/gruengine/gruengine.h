/* SPDX-License-Identifier: MIT */
/* The C API of gruengine: recurrent networks on the CPU, whole sequences or live streams.
 *
 * Rules
 * - C99. Handles are opaque. A function that can fail returns a gru_status; what it got and what it
 *   allows is then said by gru_last_error() of the same thread. No C++ exception leaves the
 * library.
 * - A gru_model is immutable: any number of threads may use it at once. Every other handle belongs
 *   to one caller at a time; a second concurrent caller of a stream gets GRU_BUSY, never
 * corruption.
 * - Handles keep what they need alive: a model may be freed before its streams.
 * - Strings and arrays that are returned belong to the handle they were asked of and live as long,
 *   unless the function says otherwise. Every gru_*_free takes NULL.
 * - Structures that may grow begin with `size`: set it to sizeof, as the GRU_*_INIT macros do.
 * - Names, numbers and layouts of this file do not change while GRU_ABI_VERSION stays the same;
 *   functions and values are added.
 */
#ifndef GRUENGINE_GRUENGINE_H_
#define GRUENGINE_GRUENGINE_H_

#include <stddef.h>
#include <stdint.h>

#include "gruengine/export.h"

#ifdef __cplusplus
extern "C" {
#define GRU_NOEXCEPT noexcept
#else
#define GRU_NOEXCEPT
#endif

#define GRU_ABI_VERSION 1

/* -- errors -------------------------------------------------------------------------------------*/

typedef int32_t gru_status;

enum {
  GRU_OK = 0,
  GRU_INVALID_ARGUMENT = 1, /* a value, shape or name that is not allowed */
  GRU_INVALID_TYPE = 2,     /* a dtype or layout that is not allowed */
  GRU_INVALID_FILE = 3,     /* a model file that breaks its format */
  GRU_UNSUPPORTED = 4,      /* valid, but not run by this version */
  GRU_BUSY = 5,             /* a stream used by two callers at once */
  GRU_IO = 6,               /* the operating system refused */
  GRU_INTERNAL = 7,         /* a bug in gruengine */
  GRU_NO_MEMORY = 8,
  GRU_INTERRUPTED = 9, /* a callback asked a run to stop */
  GRU_OVERLOADED = 10, /* no room: a full pool or queue */
  GRU_DEADLINE = 11,   /* not done in the time given */
  GRU_CLOSED = 12      /* a scheduler that was shut down */
};

/* What the last call of this thread that failed said; "" when none has. Valid until the next call
 * of this thread that fails. */
GRUENGINE_API const char* gru_last_error(void) GRU_NOEXCEPT;
/* "invalid argument", ...; "unknown status" for anything else. Never freed. */
GRUENGINE_API const char* gru_status_name(gru_status status) GRU_NOEXCEPT;

/* -- the library --------------------------------------------------------------------------------*/

GRUENGINE_API const char* gru_version(void) GRU_NOEXCEPT; /* "major.minor.patch" */
/* GRU_ABI_VERSION of the library that runs, to be compared with that of the header. */
GRUENGINE_API int32_t gru_abi_version(void) GRU_NOEXCEPT;

/* The instruction set that models loaded now would run: "avx512", ... Valid until the next call of
 * this thread. NULL when GRUENGINE_ISA names one that this machine does not have. */
GRUENGINE_API const char* gru_isa(void) GRU_NOEXCEPT;
/* Makes models loaded from now on run `name`; NULL or "" goes back to the best. */
GRUENGINE_API gru_status gru_force_isa(const char* name) GRU_NOEXCEPT;
/* Threads that one run can use now: 1 in the child of a process that had used more. */
GRUENGINE_API int32_t gru_max_threads(void) GRU_NOEXCEPT;

/* Where weights, states and working memory come from. Small bookkeeping objects use operator new.
 * `allocate` returns memory aligned to `alignment` (a power of two), or NULL. Both may be called
 * from any thread. */
typedef struct gru_allocator {
  size_t size; /* sizeof(gru_allocator) */
  void* (*allocate)(size_t bytes, size_t alignment, void* user);
  void (*release)(void* memory, size_t bytes, void* user);
  void* user;
} gru_allocator;

/* Takes effect for memory taken from now on; memory goes back to where it came from, so `user` must
 * live until the last handle is freed. NULL: the C library's. */
GRUENGINE_API gru_status gru_set_allocator(const gru_allocator* allocator) GRU_NOEXCEPT;

/* -- arrays -------------------------------------------------------------------------------------*/

typedef int32_t gru_dtype;

enum { GRU_FLOAT32 = 0, GRU_INT64 = 1, GRU_INT32 = 2, GRU_BOOL = 3 };

/* Bytes of one element; 0 for an unknown dtype. */
GRUENGINE_API size_t gru_dtype_size(gru_dtype dtype) GRU_NOEXCEPT;

/* An array: row-major, contiguous, aligned to its element size. */
typedef struct gru_array {
  void* data; /* never written to where it is an input */
  gru_dtype dtype;
  int32_t rank;
  const int64_t* dims; /* [rank] */
} gru_array;

/* An input or an output. */
typedef struct gru_port {
  const char* name;
  gru_dtype dtype;
  int32_t rank;
  const int64_t* dims;        /* [rank]; -1 where the size is named */
  const char* const* symbols; /* [rank]; NULL where the size is fixed */
  int32_t time_axis;          /* of a port of a stream or pool; -1 where it has none */
  int32_t row_axis; /* of a port of a pool: where many streams lie side by side; else -1 */
  int64_t count;    /* elements of one step of a stream; -1 in the ports of a model */
} gru_port;

/* A value for a size that a model leaves open. */
typedef struct gru_size {
  const char* symbol;
  int64_t value;
} gru_size;

/* -- models -------------------------------------------------------------------------------------*/

typedef struct gru_model gru_model;

typedef struct gru_model_options {
  size_t size;         /* sizeof(gru_model_options) */
  int32_t num_threads; /* of one run; 1 when it is 0 */
  /* "float32", "bfloat16" or "int8": how products with weights are made. NULL: as the file says. */
  const char* compute_type;
} gru_model_options;

#define GRU_MODEL_OPTIONS_INIT {sizeof(gru_model_options), 1, NULL}

/* Opens a model file (docs/format.md; `gruengine convert` makes them). `options` may be NULL. */
GRUENGINE_API gru_status gru_model_load(const char* path, const gru_model_options* options,
                                        gru_model** model) GRU_NOEXCEPT;
/* The same from the bytes of a file, which are copied. */
GRUENGINE_API gru_status gru_model_load_memory(const void* bytes, size_t size,
                                               const gru_model_options* options,
                                               gru_model** model) GRU_NOEXCEPT;
GRUENGINE_API void gru_model_free(gru_model* model) GRU_NOEXCEPT;

GRUENGINE_API size_t gru_model_num_inputs(const gru_model* model) GRU_NOEXCEPT;
GRUENGINE_API size_t gru_model_num_outputs(const gru_model* model) GRU_NOEXCEPT;
/* NULL where there is no such port. */
GRUENGINE_API const gru_port* gru_model_input(const gru_model* model, size_t i) GRU_NOEXCEPT;
GRUENGINE_API const gru_port* gru_model_output(const gru_model* model, size_t i) GRU_NOEXCEPT;

/* Pairs of an input and the output that is its next value: streams carry them. */
GRUENGINE_API size_t gru_model_num_states(const gru_model* model) GRU_NOEXCEPT;
GRUENGINE_API gru_status gru_model_state(const gru_model* model, size_t i, const char** input,
                                         const char** output) GRU_NOEXCEPT;

enum {
  GRU_STREAM_NONE = 0,   /* does not stream: gru_model_streaming_reason says why */
  GRU_STREAM_FRAMES = 1, /* the graph has a time axis and works frame by frame */
  GRU_STREAM_CALLS = 2   /* the graph is one step and its states are inputs and outputs */
};
GRUENGINE_API int32_t gru_model_streaming(const gru_model* model) GRU_NOEXCEPT;
GRUENGINE_API const char* gru_model_streaming_reason(const gru_model* model) GRU_NOEXCEPT;

/* Facts about a model: "hash" (SHA-256 of graph and weights), "provenance" (JSON: where it was
 * converted from), "isa" (chosen at load), "compute_type", "time" and "batch" (symbols of these
 * sizes). NULL for another key. */
GRUENGINE_API const char* gru_model_info(const gru_model* model, const char* key) GRU_NOEXCEPT;
GRUENGINE_API int32_t gru_model_num_threads(const gru_model* model) GRU_NOEXCEPT;
/* Bytes of packed weights. */
GRUENGINE_API int64_t gru_model_packed_bytes(const gru_model* model) GRU_NOEXCEPT;

/* -- whole sequences ----------------------------------------------------------------------------*/

/* The outputs of a run and the state after it. */
typedef struct gru_result gru_result;

/* Runs the graph on all its inputs, in the order of gru_model_input. */
GRUENGINE_API gru_status gru_model_run(const gru_model* model, const gru_array* inputs,
                                       size_t num_inputs, gru_result** result) GRU_NOEXCEPT;
/* Runs from a state, and keeps the state after it in the result. Inputs that are states are ignored
 * (their place in `inputs` stays). `lengths`: [num_lengths], the frames of each row, or NULL.
 * `state`: of gru_result_state at the same shapes, or NULL for the initial state. */
GRUENGINE_API gru_status gru_model_run_from(const gru_model* model, const gru_array* inputs,
                                            size_t num_inputs, const int64_t* lengths,
                                            size_t num_lengths, const void* state,
                                            size_t state_size, gru_result** result) GRU_NOEXCEPT;
GRUENGINE_API void gru_result_free(gru_result* result) GRU_NOEXCEPT;
/* NULL where there is no such output, or where it is a state that gru_model_run_from keeps. */
GRUENGINE_API const gru_array* gru_result_output(const gru_result* result, size_t i) GRU_NOEXCEPT;
/* The state after the run and its size in bytes; NULL and 0 after gru_model_run. */
GRUENGINE_API const void* gru_result_state(const gru_result* result, size_t* size) GRU_NOEXCEPT;

/* A model at fixed shapes: its runs allocate nothing. */
typedef struct gru_call gru_call;

/* `inputs`: dtype, rank and dims of every input of the model; `data` is not looked at. */
GRUENGINE_API gru_status gru_call_create(const gru_model* model, const gru_array* inputs,
                                         size_t num_inputs, gru_call** call) GRU_NOEXCEPT;
GRUENGINE_API void gru_call_free(gru_call* call) GRU_NOEXCEPT;
/* Dtype, rank and dims of an output (`data` is NULL); NULL where there is no such output. */
GRUENGINE_API const gru_array* gru_call_output(const gru_call* call, size_t i) GRU_NOEXCEPT;
/* inputs[i], outputs[i]: arrays of these shapes; no output overlaps another array. */
GRUENGINE_API gru_status gru_call_run(gru_call* call, const void* const* inputs,
                                      void* const* outputs) GRU_NOEXCEPT;

/* -- streams ------------------------------------------------------------------------------------*/

/* One live stream: its state, and the memory of one step. */
typedef struct gru_stream gru_stream;

/* `batch_size`: rows stepped together, 1 as a rule. `sizes`: values for other sizes that the model
 * leaves open; NULL when it leaves none. */
GRUENGINE_API gru_status gru_stream_create(const gru_model* model, int64_t batch_size,
                                           const gru_size* sizes, size_t num_sizes,
                                           gru_stream** stream) GRU_NOEXCEPT;
GRUENGINE_API void gru_stream_free(gru_stream* stream) GRU_NOEXCEPT;
/* Another stream in the same state. */
GRUENGINE_API gru_status gru_stream_clone(const gru_stream* stream,
                                          gru_stream** clone) GRU_NOEXCEPT;

/* Inputs and outputs of a step: those of the model without its states. */
GRUENGINE_API size_t gru_stream_num_inputs(const gru_stream* stream) GRU_NOEXCEPT;
GRUENGINE_API size_t gru_stream_num_outputs(const gru_stream* stream) GRU_NOEXCEPT;
GRUENGINE_API const gru_port* gru_stream_input(const gru_stream* stream, size_t i) GRU_NOEXCEPT;
GRUENGINE_API const gru_port* gru_stream_output(const gru_stream* stream, size_t i) GRU_NOEXCEPT;
GRUENGINE_API int64_t gru_stream_batch_size(const gru_stream* stream) GRU_NOEXCEPT;

/* One step. inputs[i], outputs[i]: gru_port.count elements each; no output overlaps another array.
 * No allocation, no lock, no system call. A step that fails leaves the state as it was. */
GRUENGINE_API gru_status gru_stream_step(gru_stream* stream, const void* const* inputs,
                                         void* const* outputs) GRU_NOEXCEPT;

/* Asked between blocks of a long run, on the thread that runs: anything but 0 stops it. */
typedef int (*gru_stop_fn)(void* user);

/* `frames` steps at once, with the bits of one step after the other. GRU_STREAM_FRAMES: arrays as
 * the model has them, the time axis being `frames` long. GRU_STREAM_CALLS: `frames` arrays of a
 * step one after the other. An output without time axis holds its last value (frames) or one value
 * for each step (calls).
 * `stop` may be NULL. A run that fails or is stopped leaves the state as it was before the run, and
 * part of the outputs written. */
GRUENGINE_API gru_status gru_stream_run(gru_stream* stream, int64_t frames,
                                        const void* const* inputs, void* const* outputs,
                                        gru_stop_fn stop, void* user) GRU_NOEXCEPT;

/* Back to the initial state. */
GRUENGINE_API gru_status gru_stream_reset(gru_stream* stream) GRU_NOEXCEPT;
/* Bytes of a saved state. */
GRUENGINE_API size_t gru_stream_state_size(const gru_stream* stream) GRU_NOEXCEPT;
/* Saves the state: versioned bytes that belong to this model and batch size.
 * `buffer`: gru_stream_state_size bytes; `size` is what it has room for. */
GRUENGINE_API gru_status gru_stream_get_state(const gru_stream* stream, void* buffer,
                                              size_t size) GRU_NOEXCEPT;
/* Goes on from a saved state. Bytes of another model are refused and change nothing. */
GRUENGINE_API gru_status gru_stream_set_state(gru_stream* stream, const void* bytes,
                                              size_t size) GRU_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#include "gruengine/gruengine_pool.h"

#endif /* GRUENGINE_GRUENGINE_H_ */
