/* SPDX-License-Identifier: MIT */
/* The C API from C: what each function does, and that every mistake is a status and a message. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "check_c.h"
#include "gruengine/gruengine.h"
#include "small_model.h"

enum { I = 7, H = 17, T = 300, THREADS = 16 };

static float x[T * I], wanted[T * H];

static gru_model* load(void) {
  size_t size = 0;
  const uint8_t* bytes = small_lstm(I, H, 1, &size);
  gru_model* model = NULL;
  MUST(gru_model_load_memory(bytes, size, NULL, &model));
  return model;
}

static gru_array array_of(float* data, const int64_t* dims) {
  gru_array array = {NULL, GRU_FLOAT32, 3, NULL};
  array.data = data;
  array.dims = dims;
  return array;
}

static const int64_t kAll[] = {T, 1, I};

static void test_library(void) {
  CHECK(gru_abi_version() == GRU_ABI_VERSION);
  CHECK(strlen(gru_version()) >= 5);
  CHECK(strcmp(gru_status_name(GRU_BUSY), "busy") == 0);
  CHECK(strcmp(gru_status_name(999), "unknown status") == 0);
  CHECK(gru_dtype_size(GRU_FLOAT32) == 4 && gru_dtype_size(GRU_INT64) == 8);
  CHECK(gru_dtype_size(GRU_BOOL) == 1 && gru_dtype_size(-1) == 0 && gru_dtype_size(4) == 0);
  CHECK(gru_max_threads() >= 1);
  REFUSED(GRU_INVALID_ARGUMENT, gru_force_isa("abacus"), "abacus");
  MUST(gru_force_isa("scalar"));
  CHECK(strcmp(gru_isa(), "scalar") == 0);
  gru_model* model = load();
  CHECK(strcmp(gru_model_info(model, "isa"), "scalar") == 0);
  gru_model_free(model);
  MUST(gru_force_isa(NULL));
}

static void test_signature(void) {
  gru_model* model = load();
  CHECK(gru_model_num_inputs(model) == 1 && gru_model_num_outputs(model) == 1);
  const gru_port* in = gru_model_input(model, 0);
  CHECK(strcmp(in->name, "x") == 0 && in->dtype == GRU_FLOAT32 && in->rank == 3);
  CHECK(in->dims[0] == -1 && in->dims[2] == I);
  CHECK(strcmp(in->symbols[0], "T") == 0 && in->symbols[2] == NULL);
  CHECK(gru_model_output(model, 0)->dims[3] == H);
  CHECK(gru_model_input(model, 1) == NULL && gru_model_output(model, 9) == NULL);
  CHECK(gru_model_streaming(model) == GRU_STREAM_FRAMES);
  CHECK(strcmp(gru_model_info(model, "time"), "T") == 0);
  CHECK(strcmp(gru_model_info(model, "batch"), "N") == 0);
  CHECK(strlen(gru_model_info(model, "hash")) == 64);
  CHECK(strstr(gru_model_info(model, "provenance"), "test") != NULL);
  CHECK(gru_model_info(model, "colour") == NULL);
  CHECK(gru_model_packed_bytes(model) >= 4 * 4 * H * (I + H) && gru_model_num_threads(model) == 1);
  const char *input, *output;
  CHECK(gru_model_num_states(model) == 0);
  REFUSED(GRU_INVALID_ARGUMENT, gru_model_state(model, 0, &input, &output), "0");
  gru_model_free(model);

  size_t size = 0;
  const uint8_t* bytes = small_carried(&size);
  MUST(gru_model_load_memory(bytes, size, NULL, &model));
  CHECK(gru_model_num_states(model) == 1);
  MUST(gru_model_state(model, 0, &input, &output));
  CHECK(strcmp(input, "h") == 0 && strcmp(output, "hn") == 0);
  gru_stream* stream = NULL;
  MUST(gru_stream_create(model, 2, NULL, 0, &stream));
  CHECK(gru_stream_num_inputs(stream) == 1 && gru_stream_num_outputs(stream) == 1);
  gru_stream_free(stream);
  gru_model_free(model);
}

static void test_loading_refuses(void) {
  gru_model* model = (gru_model*)&model;
  REFUSED(GRU_INVALID_ARGUMENT, gru_model_load(NULL, NULL, &model), "path");
  CHECK(model == NULL);
  REFUSED(GRU_INVALID_ARGUMENT, gru_model_load("x", NULL, NULL), "model");
  REFUSED(GRU_IO, gru_model_load("/nowhere/at/all", NULL, &model), "/nowhere/at/all");
  REFUSED(GRU_INVALID_ARGUMENT, gru_model_load_memory(NULL, 8, NULL, &model), "bytes");
  size_t size = 0;
  const uint8_t* bytes = small_lstm(I, H, 1, &size);
  for (size_t cut = 0; cut < size; cut += 1 + cut / 3) {
    REFUSED(GRU_INVALID_FILE, gru_model_load_memory(bytes, cut, NULL, &model), "");
  }
  gru_model_options options = GRU_MODEL_OPTIONS_INIT;
  options.num_threads = -3;
  REFUSED(GRU_INVALID_ARGUMENT, gru_model_load_memory(bytes, size, &options, &model), "-3");
  options.num_threads = 2;
  options.compute_type = "float7";
  REFUSED(GRU_INVALID_ARGUMENT, gru_model_load_memory(bytes, size, &options, &model), "float7");
  options.compute_type = "int8";
  MUST(gru_model_load_memory(bytes, size, &options, &model));
  CHECK(strcmp(gru_model_info(model, "compute_type"), "int8") == 0);
  CHECK(gru_model_num_threads(model) == 2);
  gru_model_free(model);
  options.size = 0;
  REFUSED(GRU_INVALID_ARGUMENT, gru_model_load_memory(bytes, size, &options, &model), "size");
}

static void test_run(void) {
  gru_model* model = load();
  gru_array in = array_of(x, kAll);
  gru_result* result = NULL;
  MUST(gru_model_run(model, &in, 1, &result));
  const gru_array* out = gru_result_output(result, 0);
  CHECK(out->rank == 4 && out->dims[0] == T && out->dims[3] == H && out->dtype == GRU_FLOAT32);
  CHECK(gru_result_output(result, 1) == NULL);
  size_t state_size = 1;
  CHECK(gru_result_state(result, &state_size) == NULL && state_size == 0);
  memcpy(wanted, out->data, sizeof wanted);
  gru_result_free(result);
  float sum = 0;
  for (int i = 0; i < T * H; ++i) sum += wanted[i] * wanted[i];
  CHECK(sum > 1 && sum < T * H);

  /* Two halves, the state handed on; and ragged lengths. */
  const int64_t first[] = {123, 1, I}, second[] = {T - 123, 1, I};
  in = array_of(x, first);
  MUST(gru_model_run_from(model, &in, 1, NULL, 0, NULL, 0, &result));
  CHECK(memcmp(gru_result_output(result, 0)->data, wanted, 123 * H * sizeof *wanted) == 0);
  const void* state = gru_result_state(result, &state_size);
  gru_result* rest = NULL;
  in = array_of(x + 123 * I, second);
  MUST(gru_model_run_from(model, &in, 1, NULL, 0, state, state_size, &rest));
  CHECK(memcmp(gru_result_output(rest, 0)->data, wanted + 123 * H,
               (T - 123) * H * sizeof *wanted) == 0);
  gru_result_free(rest);
  REFUSED(GRU_INVALID_ARGUMENT,
          gru_model_run_from(model, &in, 1, NULL, 0, state, state_size - 1, &rest), "state");
  gru_result_free(result);
  const int64_t length = 5, too_long = T + 1;
  in = array_of(x, kAll);
  MUST(gru_model_run_from(model, &in, 1, &length, 1, NULL, 0, &result));
  const float* y = gru_result_output(result, 0)->data;
  CHECK(memcmp(y, wanted, 5 * H * sizeof *y) == 0 && y[5 * H] == 0);
  gru_result_free(result);
  REFUSED(GRU_INVALID_ARGUMENT, gru_model_run_from(model, &in, 1, &too_long, 1, NULL, 0, &result),
          "301");

  REFUSED(GRU_INVALID_ARGUMENT, gru_model_run(model, &in, 0, &result), "0 inputs");
  REFUSED(GRU_INVALID_ARGUMENT, gru_model_run(model, NULL, 1, &result), "inputs");
  in.data = NULL;
  REFUSED(GRU_INVALID_ARGUMENT, gru_model_run(model, &in, 1, &result), "NULL");
  in = array_of(x, kAll);
  in.dtype = GRU_INT64;
  REFUSED(GRU_INVALID_TYPE, gru_model_run(model, &in, 1, &result), "int64");
  in.dtype = 17;
  REFUSED(GRU_INVALID_TYPE, gru_model_run(model, &in, 1, &result), "17");
  in = array_of(x, kAll);
  in.rank = 2;
  REFUSED(GRU_INVALID_ARGUMENT, gru_model_run(model, &in, 1, &result), "shape");
  in.rank = -1;
  REFUSED(GRU_INVALID_ARGUMENT, gru_model_run(model, &in, 1, &result), "rank");
  REFUSED(GRU_INVALID_ARGUMENT, gru_model_run(NULL, &in, 1, &result), "model");
  gru_model_free(model);
}

static void test_call(void) {
  gru_model* model = load();
  gru_array in = array_of(NULL, kAll);
  gru_call* call = NULL;
  MUST(gru_call_create(model, &in, 1, &call));
  gru_model_free(model);
  CHECK(gru_call_output(call, 0)->dims[3] == H && gru_call_output(call, 1) == NULL);
  float* y = calloc(T * H, sizeof *y);
  const void* inputs[] = {x};
  void* outputs[] = {y};
  for (int repeat = 0; repeat < 2; ++repeat) {
    MUST(gru_call_run(call, inputs, outputs));
    CHECK(memcmp(y, wanted, sizeof wanted) == 0);
  }
  REFUSED(GRU_INVALID_ARGUMENT, gru_call_run(call, NULL, outputs), "inputs");
  free(y);
  gru_call_free(call);
}

static int stop_at(void* left) { return (*(int*)left)-- == 0; }

static void test_stream(void) {
  gru_model* model = load();
  gru_stream *stream = NULL, *other = NULL;
  MUST(gru_stream_create(model, 1, NULL, 0, &stream));
  gru_model_free(model);
  CHECK(gru_stream_batch_size(stream) == 1 && gru_stream_input(stream, 0)->count == I);
  CHECK(gru_stream_output(stream, 0)->count == H && gru_stream_input(stream, 0)->time_axis == 0);
  float y[H], *all = calloc(T * H, sizeof *all);
  void* out = y;
  for (int t = 0; t < T; ++t) {
    if (t == 100) MUST(gru_stream_clone(stream, &other));
    const void* in = x + t * I;
    MUST(gru_stream_step(stream, &in, &out));
    CHECK(memcmp(y, wanted + t * H, sizeof y) == 0);
  }
  const void* in = x + 100 * I;
  void* chunk = all;
  MUST(gru_stream_run(other, T - 100, &in, &chunk, NULL, NULL));
  CHECK(memcmp(all, wanted + 100 * H, (T - 100) * H * sizeof *all) == 0);

  /* States: the two are at the same place, and one may go on where the other was. */
  const size_t size = gru_stream_state_size(stream);
  char *a = malloc(size), *b = malloc(size);
  MUST(gru_stream_get_state(stream, a, size));
  MUST(gru_stream_get_state(other, b, size));
  CHECK(memcmp(a, b, size) == 0);
  REFUSED(GRU_INVALID_ARGUMENT, gru_stream_get_state(stream, b, size - 1), "bytes");
  REFUSED(GRU_INVALID_ARGUMENT, gru_stream_set_state(stream, a, size - 1), "bytes");
  a[20] ^= 1;
  REFUSED(GRU_INVALID_ARGUMENT, gru_stream_set_state(stream, a, size), "");
  MUST(gru_stream_reset(stream));
  in = x;
  MUST(gru_stream_step(stream, &in, &out));
  CHECK(memcmp(y, wanted, sizeof y) == 0);
  MUST(gru_stream_reset(stream));
  MUST(gru_stream_get_state(stream, a, size));
  CHECK(memcmp(a, b, size) != 0);

  /* A run that is stopped after one block leaves the state alone. */
  int left = 1;
  REFUSED(GRU_INTERRUPTED, gru_stream_run(stream, T, &in, &chunk, stop_at, &left), "128");
  MUST(gru_stream_get_state(stream, b, size));
  CHECK(memcmp(a, b, size) == 0);
  left = 1000;
  MUST(gru_stream_run(stream, T, &in, &chunk, stop_at, &left));
  CHECK(memcmp(all, wanted, sizeof wanted) == 0);
  MUST(gru_stream_set_state(stream, a, size));
  MUST(gru_stream_run(stream, 0, &in, &chunk, NULL, NULL));
  MUST(gru_stream_run(stream, 1, &in, &chunk, NULL, NULL));
  CHECK(memcmp(all, wanted, sizeof y) == 0);

  in = NULL;
  REFUSED(GRU_INVALID_ARGUMENT, gru_stream_step(stream, &in, &out), "NULL");
  REFUSED(GRU_INVALID_ARGUMENT, gru_stream_step(stream, NULL, &out), "NULL");
  REFUSED(GRU_INVALID_ARGUMENT, gru_stream_step(NULL, &in, &out), "stream");
  in = x;
  REFUSED(GRU_INVALID_ARGUMENT, gru_stream_run(stream, -1, &in, &chunk, NULL, NULL), "-1");
  free(a);
  free(b);
  free(all);
  gru_stream_free(stream);
  gru_stream_free(other);
}

static void test_stream_creation_refuses(void) {
  gru_model* model = load();
  gru_stream* stream = NULL;
  REFUSED(GRU_INVALID_ARGUMENT, gru_stream_create(model, 0, NULL, 0, &stream), "0");
  const gru_size odd = {"K", 3}, unnamed = {NULL, 3};
  REFUSED(GRU_INVALID_ARGUMENT, gru_stream_create(model, 1, &odd, 1, &stream), "'K'");
  REFUSED(GRU_INVALID_ARGUMENT, gru_stream_create(model, 1, &unnamed, 1, &stream), "symbol");
  REFUSED(GRU_INVALID_ARGUMENT, gru_stream_create(model, 1, NULL, 1, &stream), "sizes");
  REFUSED(GRU_INVALID_ARGUMENT, gru_stream_create(NULL, 1, NULL, 0, &stream), "model");
  gru_model_free(model);
  gru_model_free(NULL);
  gru_stream_free(NULL);
  gru_call_free(NULL);
  gru_result_free(NULL);
}

struct counts {
  size_t taken, given_back, calls;
};

static void* take(size_t bytes, size_t alignment, void* user) {
  struct counts* counts = user;
  counts->taken += bytes;
  ++counts->calls;
  return aligned_alloc(alignment, bytes);
}

static void give_back(void* memory, size_t bytes, void* user) {
  ((struct counts*)user)->given_back += bytes;
  free(memory);
}

static void test_allocator(void) {
  static struct counts counts;
  gru_allocator allocator = {sizeof allocator, take, give_back, &counts};
  gru_stream* outside = NULL;
  gru_model* model = load();
  MUST(gru_stream_create(model, 1, NULL, 0, &outside));
  gru_model_free(model);
  MUST(gru_set_allocator(&allocator));
  gru_stream_free(outside); /* goes back to where it came from */
  CHECK(counts.calls == 0 && counts.given_back == 0);
  model = load();
  gru_stream* stream = NULL;
  MUST(gru_stream_create(model, 3, NULL, 0, &stream));
  CHECK(counts.taken >= (size_t)gru_model_packed_bytes(model));
  MUST(gru_set_allocator(NULL));
  const size_t calls = counts.calls;
  gru_model* plain = load();
  CHECK(counts.calls == calls);
  gru_model_free(plain);
  gru_stream_free(stream);
  gru_model_free(model);
  CHECK(counts.taken == counts.given_back);
  allocator.release = NULL;
  REFUSED(GRU_INVALID_ARGUMENT, gru_set_allocator(&allocator), "release");
}

struct shared {
  gru_model* model;
  gru_stream* contended;
  long wrong, busy;
};

static void* work(void* argument) {
  struct shared* shared = argument;
  long wrong = 0, busy = 0;
  gru_stream* stream = NULL;
  if (gru_stream_create(shared->model, 1, NULL, 0, &stream) != GRU_OK) return "create";
  float y[H];
  void* out = y;
  for (int t = 0; t < T; ++t) {
    const void* in = x + t * I;
    if (gru_stream_step(stream, &in, &out) != GRU_OK) ++wrong;
    if (memcmp(y, wanted + t * H, sizeof y) != 0) ++wrong;
    const gru_status status = gru_stream_step(shared->contended, &in, &out);
    if (status == GRU_BUSY && strstr(gru_last_error(), "in use") != NULL) ++busy;
    if (status != GRU_OK && status != GRU_BUSY) ++wrong;
    if (t % 100 == 7) {
      const gru_array whole = array_of(x, kAll);
      gru_result* result = NULL;
      if (gru_model_run(shared->model, &whole, 1, &result) != GRU_OK) ++wrong;
      if (memcmp(gru_result_output(result, 0)->data, wanted, sizeof wanted) != 0) ++wrong;
      gru_result_free(result);
    }
  }
  gru_stream_free(stream);
  __atomic_fetch_add(&shared->wrong, wrong, __ATOMIC_RELAXED);
  __atomic_fetch_add(&shared->busy, busy, __ATOMIC_RELAXED);
  return NULL;
}

static void test_threads(void) {
  struct shared shared = {load(), NULL, 0, 0};
  MUST(gru_stream_create(shared.model, 1, NULL, 0, &shared.contended));
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; ++i) {
    if (pthread_create(&threads[i], NULL, work, &shared) != 0) abort();
  }
  for (int i = 0; i < THREADS; ++i) {
    void* failed = NULL;
    pthread_join(threads[i], &failed);
    CHECK(failed == NULL);
  }
  CHECK(shared.wrong == 0);
  printf("%ld of %d contended steps were refused\n", shared.busy, THREADS * T);
  gru_stream_free(shared.contended);
  gru_model_free(shared.model);
}

int main(void) {
  for (int i = 0; i < T * I; ++i) x[i] = (float)((i * 7919) % 2003) * 1e-3f - 1.0f;
  test_library();
  test_signature();
  test_loading_refuses();
  test_run();
  test_call();
  test_stream();
  test_stream_creation_refuses();
  test_allocator();
  test_threads();
  return REPORT();
}
