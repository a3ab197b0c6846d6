// SPDX-License-Identifier: MIT
#include <algorithm>
#include <numeric>

#include "train/recurrent.h"

namespace gruengine {

void sort_rows(RecurrentTape::Data& tape, const int64_t* lengths) {
  const int64_t T = tape.T, N = tape.N;
  bool full = true, in_order = true;
  for (int64_t i = 0; i < N; ++i) {
    if (lengths[i] < 0 || lengths[i] > T) {
      throw Error(ErrorCode::kInvalidArgument,
                  "RecurrentTraining: length " + std::to_string(lengths[i]) + " of row " +
                      std::to_string(i) + "; it must be from 0 to " + std::to_string(T));
    }
    full = full && lengths[i] == T;
    in_order = in_order && (i == 0 || lengths[i] <= lengths[i - 1]);
  }
  if (full) return;
  tape.sorted = true;
  tape.rows.resize(static_cast<size_t>(N));
  std::iota(tape.rows.begin(), tape.rows.end(), 0);
  std::stable_sort(tape.rows.begin(), tape.rows.end(),
                   [&](int64_t a, int64_t b) { return lengths[a] > lengths[b]; });
  for (const int64_t row : tape.rows) tape.lengths.push_back(lengths[row]);
  int64_t live = N;
  for (int64_t t = 0; t < T; ++t) {
    while (live > 0 && tape.lengths[static_cast<size_t>(live - 1)] <= t) --live;
    tape.live.push_back(live);
  }
}

void gather_inputs(RecurrentTape::Data& tape, const RecurrentTraining::Impl& layer) {
  const int64_t T = tape.T, N = tape.N, I = layer.I;
  tape.sorted_x = Lease(static_cast<size_t>(T * N * I) * sizeof(float));
  float* to = tape.sorted_x.floats();
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t i = 0; i < N; ++i) {
      float* line = to + (t * N + i) * I;
      i < tape.live_at(t) ? copy(line, tape.x + (t * N + tape.row(i)) * I, I) : clear(line, I);
    }
  }
  tape.x = to;
}

}  // namespace gruengine
