/* SPDX-License-Identifier: MIT */
/* Steps of a stream in a loop of C: what a program without Python pays. */

#include <gruengine/gruengine.h>
#include <stdint.h>

/* A stream of one row from a model file; NULL on failure, which gru_last_error describes. */
gru_stream* steps_open(const char* path) {
  gru_model* model = NULL;
  gru_stream* stream = NULL;
  if (gru_model_load(path, NULL, &model) != GRU_OK) return NULL;
  gru_stream_create(model, 1, NULL, 0, &stream);
  gru_model_free(model);
  return stream;
}

/* x [frames, I], y [frames, H]: all frames one after the other, and again. Returns the first status
 * that is not GRU_OK. */
int32_t steps_run(gru_stream* stream, const float* x, float* y, int64_t frames, int64_t repeats) {
  const int64_t I = gru_stream_input(stream, 0)->count, H = gru_stream_output(stream, 0)->count;
  int32_t status = GRU_OK;
  for (int64_t step = 0; step < frames * repeats && status == GRU_OK; ++step) {
    const int64_t frame = step % frames;
    const void* input = x + frame * I;
    void* output = y + frame * H;
    status = gru_stream_step(stream, &input, &output);
  }
  return status;
}

void steps_close(gru_stream* stream) { gru_stream_free(stream); }
