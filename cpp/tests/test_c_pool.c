/* SPDX-License-Identifier: MIT */
/* Pools and schedulers from C: every stream gets the bits of a stream of its own. */
#include <pthread.h>

#include "check_c.h"
#include "small_model.h"

enum { I = 5, H = 19, T = 60, S = 24, THREADS = 16 };

static float x[S][T][I], wanted[S][T][H];

static gru_model* load(void) {
  size_t size = 0;
  const uint8_t* bytes = small_lstm(I, H, 2, &size);
  gru_model* model = NULL;
  MUST(gru_model_load_memory(bytes, size, NULL, &model));
  return model;
}

static void fill(gru_model* model) {
  unsigned at = 1;
  for (int s = 0; s < S; ++s) {
    gru_stream* stream = NULL;
    MUST(gru_stream_create(model, 1, NULL, 0, &stream));
    for (int t = 0; t < T; ++t) {
      for (int i = 0; i < I; ++i) x[s][t][i] = (float)((at = at * 69069u + 1u) >> 16) * 3e-5f - 1;
      const void* in = x[s][t];
      void* out = wanted[s][t];
      MUST(gru_stream_step(stream, &in, &out));
    }
    gru_stream_free(stream);
  }
}

static void test_pool(gru_model* model) {
  gru_pool* pool = NULL;
  gru_stream_id ids[S], some[S];
  float in[S * I], out[S * H];
  const void* inputs[] = {in};
  void* outputs[] = {out};
  int next[S] = {0};
  REFUSED(GRU_INVALID_ARGUMENT, gru_pool_create(model, 0, NULL, 0, &pool), "capacity");
  MUST(gru_pool_create(model, S - 4, NULL, 0, &pool));
  for (int s = 0; s < S - 4; ++s) MUST(gru_pool_open(pool, NULL, 0, &ids[s]));
  REFUSED(GRU_OVERLOADED, gru_pool_open(pool, NULL, 0, &some[0]), "");
  MUST(gru_pool_grow(pool, S));
  for (int s = S - 4; s < S; ++s) MUST(gru_pool_open(pool, NULL, 0, &ids[s]));
  CHECK(gru_pool_size(pool) == S && gru_pool_capacity(pool) == S);
  CHECK(gru_pool_input(pool, 0)->count == I && gru_pool_output(pool, 0)->count == H);
  CHECK(gru_pool_input(pool, 0)->row_axis >= 0 && gru_pool_input(pool, 1) == NULL);
  long wrong = 0;
  for (int round = 0; round < 5 * T; ++round) {
    int n = 0, which[S];
    for (int k = 0; k < S; ++k) {
      const int s = (k * 7 + round) % S; /* any order */
      if ((k * 31 + round * 17) % 5 < 2 || next[s] == T) continue;
      memcpy(in + n * I, x[s][next[s]], I * sizeof *in);
      which[n] = s;
      some[n++] = ids[s];
    }
    MUST(gru_pool_step(pool, some, n, inputs, outputs));
    for (int k = 0; k < n; ++k) {
      wrong += memcmp(out + k * H, wanted[which[k]][next[which[k]]++], H * sizeof *out) != 0;
    }
  }
  CHECK(wrong == 0);
  CHECK(next[0] == T && next[S - 1] == T);

  /* States: saved, forked, set back, and the chunks of a run. */
  MUST(gru_pool_reset(pool, ids, 2));
  const int64_t frames[] = {T, 0};
  const void* chunk_in[] = {x[0], NULL};
  static float y[T * H];
  void* chunk_out[] = {y, NULL};
  MUST(gru_pool_run(pool, ids, 2, frames, chunk_in, chunk_out));
  CHECK(memcmp(y, wanted[0], sizeof y) == 0);
  size_t size = 0;
  MUST(gru_pool_close(pool, ids + 2, 1));
  REFUSED(GRU_INVALID_ARGUMENT, gru_pool_get_state(pool, ids[0], y, &size), "room");
  char* state = malloc(size);
  MUST(gru_pool_get_state(pool, ids[0], state, &size));
  MUST(gru_pool_set_state(pool, ids[1], state, size));
  gru_stream_id copy = 0;
  MUST(gru_pool_fork(pool, ids, 1, &copy));
  const gru_stream_id three[] = {ids[0], ids[1], copy};
  for (int k = 0; k < 3; ++k) memcpy(in + k * I, x[3][0], I * sizeof *in);
  MUST(gru_pool_step(pool, three, 3, inputs, outputs));
  CHECK(memcmp(out, out + H, H * sizeof *out) == 0);
  CHECK(memcmp(out, out + 2 * H, H * sizeof *out) == 0);
  free(state);

  int64_t n = S - 1;
  REFUSED(GRU_INVALID_ARGUMENT, gru_pool_step(pool, ids + 2, 1, inputs, outputs), "");
  REFUSED(GRU_INVALID_ARGUMENT, gru_pool_ids(pool, some, &n), "room");
  CHECK(n == S);
  MUST(gru_pool_ids(pool, some, &n));
  CHECK(gru_pool_is_open(pool, some[0]) == 1 && gru_pool_is_open(pool, ids[2]) == 0);
  const gru_stream_id twice[] = {ids[0], ids[0]};
  REFUSED(GRU_INVALID_ARGUMENT, gru_pool_step(pool, twice, 2, inputs, outputs), "");
  REFUSED(GRU_INVALID_ARGUMENT, gru_pool_step(pool, NULL, 2, inputs, outputs), "ids");
  REFUSED(GRU_INVALID_ARGUMENT, gru_pool_step(pool, ids, -1, inputs, outputs), "-1");
  gru_pool_free(pool);
  gru_pool_free(NULL);
}

struct work {
  gru_scheduler* scheduler;
  int first;
  long wrong;
};

static void* walk(void* argument) {
  struct work* work = argument;
  for (int s = work->first; s < S; s += THREADS) {
    gru_stream_id id = 0;
    float y[H];
    void* out = y;
    if (gru_scheduler_open(work->scheduler, NULL, 0, &id) != GRU_OK) ++work->wrong;
    for (int t = 0; t < T; ++t) {
      const void* in = x[s][t];
      if (gru_scheduler_step(work->scheduler, id, &in, &out, 0) != GRU_OK) ++work->wrong;
      if (memcmp(y, wanted[s][t], sizeof y) != 0) ++work->wrong;
    }
    if (gru_scheduler_close(work->scheduler, id) != GRU_OK) ++work->wrong;
  }
  return NULL;
}

static void count(void* user, gru_status status, const char* message) {
  (void)message;
  long* counts = user;
  __atomic_fetch_add(&counts[status == GRU_OK ? 0 : 1], 1, __ATOMIC_RELAXED);
}

static void test_scheduler(gru_model* model) {
  gru_scheduler_options options = GRU_SCHEDULER_OPTIONS_INIT;
  gru_scheduler* scheduler = NULL;
  options.max_streams = S;
  options.num_threads = 2;
  MUST(gru_scheduler_create(model, &options, &scheduler));
  pthread_t threads[THREADS];
  struct work work[THREADS];
  for (int i = 0; i < THREADS; ++i) {
    work[i] = (struct work){scheduler, i, 0};
    if (pthread_create(&threads[i], NULL, walk, &work[i]) != 0) abort();
  }
  long wrong = 0;
  for (int i = 0; i < THREADS; ++i) {
    pthread_join(threads[i], NULL);
    wrong += work[i].wrong;
  }
  CHECK(wrong == 0);

  /* Without waiting: in order, and every one answered by the time of the end. */
  gru_stream_id id = 0;
  long counts[2] = {0, 0};
  static float y[T][H];
  MUST(gru_scheduler_open(scheduler, NULL, 0, &id));
  for (int t = 0; t < 40; ++t) {
    const void* in = x[1][t];
    void* out = y[t];
    MUST(gru_scheduler_submit(scheduler, id, &in, &out, 0, count, counts));
  }
  MUST(gru_scheduler_shutdown(scheduler, 1));
  CHECK(counts[0] == 40 && counts[1] == 0 && gru_scheduler_is_open(scheduler) == 0);
  CHECK(memcmp(y, wanted[1], 40 * sizeof y[0]) == 0);
  const void* in = x[1][0];
  void* out = y;
  REFUSED(GRU_CLOSED, gru_scheduler_step(scheduler, id, &in, &out, 0), "");
  REFUSED(GRU_CLOSED, gru_scheduler_submit(scheduler, id, &in, &out, 0, count, counts), "");

  gru_scheduler_metrics metrics = {.size = sizeof metrics};
  MUST(gru_scheduler_get_metrics(scheduler, &metrics));
  CHECK(metrics.steps == S * T + 40 && metrics.failed == 0 && metrics.rows == metrics.steps);
  metrics.size = 3;
  REFUSED(GRU_INVALID_ARGUMENT, gru_scheduler_get_metrics(scheduler, &metrics), "size");
  char text[8192];
  size_t size = sizeof text;
  MUST(gru_scheduler_prometheus(scheduler, "model=\"a\"", text, &size));
  CHECK(strstr(text, "model=\"a\"") != NULL && strlen(text) + 1 == size);
  gru_scheduler_free(scheduler);
  options.max_streams = -1;
  REFUSED(GRU_INVALID_ARGUMENT, gru_scheduler_create(model, &options, &scheduler), "-1");
  gru_scheduler_free(NULL);
}

int main(void) {
  gru_model* model = load();
  fill(model);
  test_pool(model);
  test_scheduler(model);
  gru_model_free(model);
  return REPORT();
}
