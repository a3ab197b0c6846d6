// SPDX-License-Identifier: MIT
// Runs rows of a record memory as batches: gathers their states, runs a plan, scatters them. The
// memory of one thread.
#pragma once

#include <memory>
#include <vector>

#include "engine/pool_layout.h"

namespace gruengine {

// The rows of one call. Rows are different records.
struct PoolRows {
  int64_t n = 0;
  char* const* records = nullptr;  // [n]
  // Arrays with n rows, one for each port; or, `apart`, one array with one row for each row and
  // port, [n * ports].
  const void* const* inputs = nullptr;
  void* const* outputs = nullptr;
  bool apart = false;
};

class PoolBatch {
 public:
  // Plans for up to `max_rows` rows at once, each run on `threads` threads.
  PoolBatch(std::shared_ptr<const PoolLayout> layout, int64_t max_rows, int threads);

  // One step of any number of rows. Allocates nothing, but for models that may refuse the values
  // of integers. When it throws, the records are as they were.
  void step(const PoolRows& rows);
  // frames[i] steps of row i, falling; arrays apart, each with its frames.
  void run(const PoolRows& rows, const int64_t* frames);

  int64_t bytes() const;  // of its own memory

 private:
  // A plan of some rows with the memory to run it.
  struct Tile {
    int64_t rows, frames;
    std::unique_ptr<Workspace> workspace;
    std::vector<char*> staged_in, staged_out;
  };
  struct Span {  // of the rows of a call
    int64_t first, used;
    int64_t frame, frames;  // done of each row's frames, and now
    const int64_t* total;   // of each row; nullptr: one
  };
  class Undo;

  Tile make_tile(int64_t rows, int64_t frames);
  Tile& tile_for(int64_t rows, int64_t frames);
  void gather(const PoolRows& rows, int64_t first, int64_t used, const Tile& tile);
  void scatter(const PoolRows& rows, int64_t first, int64_t used, const Tile& tile) const;
  int64_t call_bytes(const Span& span, const PoolStrides& s) const;
  void bind_inputs(const PoolRows& rows, const Span& span, Tile& tile) const;
  bool direct(const PoolRows& rows, const Span& span, const Tile& tile, const PoolStrides& s) const;
  void bind_outputs(const PoolRows& rows, const Span& span, Tile& tile) const;
  void fetch_outputs(const PoolRows& rows, const Span& span, const Tile& tile) const;
  void run_segment(const PoolRows& rows, Span span, int64_t until);

  std::shared_ptr<const PoolLayout> layout_;
  int threads_;
  std::vector<Tile> tiles_;       // one frame, rising rows
  std::vector<Tile> long_tiles_;  // many frames, made when first needed
  std::vector<uint8_t> choice_;   // the tile to start with, for each number of rows
  Buffer block_;                  // the states of a tile
  Buffer stage_;
  Buffer saved_;
};

}  // namespace gruengine
