// SPDX-License-Identifier: MIT
// How the rows of a model's arrays and states lie, and the proof that they do not depend on one
// another.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "gruengine/pool.h"

namespace gruengine {

// One array of the state of a stream, and where it lies in the stream's record.
struct PoolEntry {
  StateEntry entry;  // dims and offset in the block of one row
  int row_axis;
  int64_t outer, inner;  // repeats of the row axis; bytes of one row in each
  int64_t offset;        // in the record
  int64_t bytes() const { return outer * inner; }
};

// A port's array with r rows and f frames has, in its order, [outer][r][mid][f][inner bytes] or
// [outer][f][mid][r][inner bytes].
struct PoolStrides {
  explicit PoolStrides(const PoolPort& port);
  bool timed;
  bool time_first;
  int64_t outer, mid, inner;
  int64_t row_bytes;  // of one frame of one row
};

class PoolLayout {
 public:
  // Throws Error(kUnsupported) naming what keeps rows from being stepped together.
  PoolLayout(std::shared_ptr<const Model> model, const Sizes& sizes);

  const Engine& engine() const { return model_->engine(); }
  const std::shared_ptr<const Model>& model() const { return model_; }
  bool by_frames() const { return engine().streaming().form == Streaming::Form::kFrames; }
  // The plan of `rows` rows and `frames` frames, whose rows are those of this layout.
  std::shared_ptr<const Plan> plan(int64_t rows, int64_t frames) const;
  const std::shared_ptr<const Plan>& one() const { return one_; }

  std::vector<size_t> ins, outs;  // graph ports that a step has
  std::vector<PoolPort> inputs, outputs;
  std::vector<PoolStrides> in_strides, out_strides;
  std::vector<PoolEntry> entries;
  int64_t record_bytes = 0;   // of one stream, a multiple of 16
  std::vector<char> initial;  // the record of a new stream

  // Between a record and the block of one row.
  void to_block(const char* record, char* block) const;
  void from_block(const char* block, char* record) const;

 private:
  PlanRequest request(int64_t rows, int64_t frames) const;
  std::vector<std::vector<int>> candidates() const;
  void find_rows();
  std::string try_rows(const std::vector<int>& axes);
  std::string misfit(const Plan& plan, int64_t rows, int64_t frames) const;
  void describe();

  std::shared_ptr<const Model> model_;
  Sizes sizes_;                // every symbol but rows and time
  std::vector<int> row_axes_;  // of each graph input
  int64_t mark_ = 0;           // rows of the marked plan
  std::shared_ptr<const Plan> marked_, one_;
};

}  // namespace gruengine
