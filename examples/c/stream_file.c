/* SPDX-License-Identifier: MIT */
/* stream_file MODEL INPUT OUTPUT [SIZE=VALUE...]: steps a model over a file of raw float32 frames,
 * one at a time, and writes what comes out of each step. "-" stands for standard input and output;
 * SIZE=VALUE gives a value to a size that the model leaves open. */
#include <gruengine/gruengine.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SIZES = 8 };

static void must(gru_status status, const char* what) {
  if (status == GRU_OK) return;
  fprintf(stderr, "%s: %s: %s\n", what, gru_status_name(status), gru_last_error());
  exit(1);
}

static FILE* open_file(const char* path, const char* mode, FILE* standard) {
  if (strcmp(path, "-") == 0) return standard;
  FILE* file = fopen(path, mode);
  if (file == NULL) {
    perror(path);
    exit(1);
  }
  return file;
}

int main(int argc, char** argv) {
  if (argc < 4 || argc > 4 + MAX_SIZES) {
    fprintf(stderr, "usage: %s MODEL INPUT OUTPUT [SIZE=VALUE...]\n", argv[0]);
    return 2;
  }
  if (gru_abi_version() != GRU_ABI_VERSION) {
    fprintf(stderr, "compiled for another version of libgruengine\n");
    return 1;
  }
  gru_size sizes[MAX_SIZES];
  size_t num_sizes = 0;
  for (int i = 4; i < argc; ++i) {
    char* equals = strchr(argv[i], '=');
    if (equals == NULL) {
      fprintf(stderr, "'%s' is not SIZE=VALUE\n", argv[i]);
      return 2;
    }
    *equals = '\0';
    sizes[num_sizes].symbol = argv[i];
    sizes[num_sizes++].value = strtoll(equals + 1, NULL, 10);
  }
  gru_model* model = NULL;
  gru_stream* stream = NULL;
  must(gru_model_load(argv[1], NULL, &model), argv[1]);
  must(gru_stream_create(model, 1, sizes, num_sizes, &stream), argv[1]);

  const gru_port* in = gru_stream_input(stream, 0);
  const gru_port* out = gru_stream_output(stream, 0);
  if (gru_stream_num_inputs(stream) != 1 || gru_stream_num_outputs(stream) != 1 ||
      in->dtype != GRU_FLOAT32 || out->dtype != GRU_FLOAT32) {
    fprintf(stderr, "the model must have one float32 input and output\n");
    return 1;
  }
  fprintf(stderr, "gruengine %s on %s: %lld floats in, %lld out\n", gru_version(),
          gru_model_info(model, "isa"), (long long)in->count, (long long)out->count);

  FILE* input = open_file(argv[2], "rb", stdin);
  FILE* output = open_file(argv[3], "wb", stdout);
  float* x = calloc((size_t)in->count, sizeof *x);
  float* y = calloc((size_t)out->count, sizeof *y);
  if (x == NULL || y == NULL) return 1;
  const void* inputs[] = {x};
  void* outputs[] = {y};
  long frames = 0;
  while (fread(x, sizeof *x, (size_t)in->count, input) == (size_t)in->count) {
    must(gru_stream_step(stream, inputs, outputs), "step");
    fwrite(y, sizeof *y, (size_t)out->count, output);
    ++frames;
  }
  fprintf(stderr, "%ld frames\n", frames);

  const int failed = ferror(input) != 0 || fclose(output) != 0;
  if (input != stdin) fclose(input);
  free(x);
  free(y);
  gru_stream_free(stream);
  gru_model_free(model);
  return failed;
}
