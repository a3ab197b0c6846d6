/* SPDX-License-Identifier: MIT */
/* jitter MODEL STEPS [SIZE=VALUE...]: the times of single steps, as quantiles in nanoseconds. */
#include <gruengine/gruengine.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int compare(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

int main(int argc, char** argv) {
  if (argc < 3 || argc > 11) return 2;
  const long steps = strtol(argv[2], NULL, 10);
  gru_size sizes[8];
  for (int i = 3; i < argc; ++i) {
    char* equals = strchr(argv[i], '=');
    if (equals == NULL) return 2;
    *equals = '\0';
    sizes[i - 3].symbol = argv[i];
    sizes[i - 3].value = strtoll(equals + 1, NULL, 10);
  }
  gru_model* model = NULL;
  gru_stream* stream = NULL;
  if (gru_model_load(argv[1], NULL, &model) != GRU_OK ||
      gru_stream_create(model, 1, sizes, (size_t)argc - 3, &stream) != GRU_OK) {
    fprintf(stderr, "%s\n", gru_last_error());
    return 1;
  }
  const int64_t inputs = gru_stream_input(stream, 0)->count;
  float* x = calloc((size_t)inputs, sizeof *x);
  float* y = calloc((size_t)gru_stream_output(stream, 0)->count, sizeof *y);
  double* times = calloc((size_t)steps, sizeof *times);
  if (x == NULL || y == NULL || times == NULL || steps < 1) return 1;
  const void* in = x;
  void* out = y;
  for (long t = 0; t < steps; ++t) {
    x[t % inputs] = (float)(t % 17) * 0.1f - 0.8f;
    const double begin = now();
    if (gru_stream_step(stream, &in, &out) != GRU_OK) return 1;
    times[t] = now() - begin;
  }
  qsort(times, (size_t)steps, sizeof *times, compare);
  const double at[] = {0.5, 0.9, 0.99, 0.999, 0.9999};
  for (int i = 0; i < 5; ++i) printf("%.0f ", times[(long)(at[i] * (double)(steps - 1))]);
  printf("%.0f\n", times[steps - 1]);
  return 0;
}
