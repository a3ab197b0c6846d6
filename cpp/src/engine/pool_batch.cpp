// SPDX-License-Identifier: MIT
#include "engine/pool_batch.h"

#include <algorithm>
#include <cstring>

namespace gruengine {
namespace {

// Rows of the plans. Other numbers run as several of them or with rows to spare.
constexpr int64_t kTileRows[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64};
// Reading the weights once costs as much as computing these many rows.
constexpr int64_t kFixedCost = 4;
constexpr int64_t kLongFrames = 16;

// The cheapest way to run n rows: the tile to begin with, for each n up to the largest tile.
std::vector<uint8_t> choose_tiles(const std::vector<int64_t>& rows) {
  const int64_t most = rows.back();
  std::vector<uint8_t> choice(static_cast<size_t>(most) + 1, 0);
  std::vector<int64_t> cost(choice.size(), 0);
  for (int64_t n = 1; n <= most; ++n) {
    int64_t best = -1;
    for (size_t t = 0; t < rows.size(); ++t) {
      const int64_t rest = std::max<int64_t>(0, n - rows[t]);
      const int64_t total = rows[t] + kFixedCost + cost[static_cast<size_t>(rest)];
      if (best >= 0 && total >= best) continue;
      best = total;
      choice[static_cast<size_t>(n)] = static_cast<uint8_t>(t);
    }
    cost[static_cast<size_t>(n)] = best;
  }
  return choice;
}

// Copies `frames` frames of one row between two arrays of one port. A side is an array of `rows`
// rows and `total` frames, and the row and frame to begin with.
struct Side {
  char* data;
  int64_t rows, row, total, frame;
};

void copy_row(const PoolStrides& s, const Side& to, const Side& from, int64_t frames) {
  const auto bytes = static_cast<size_t>(s.inner);
  const auto at = [&](const Side& side, int64_t o, int64_t m, int64_t f) {
    if (!s.timed) return side.data + (o * side.rows + side.row) * s.inner;
    const int64_t frame = side.frame + f;
    return side.data + (s.time_first
                            ? ((o * side.total + frame) * s.mid + m) * side.rows + side.row
                            : ((o * side.rows + side.row) * s.mid + m) * side.total + frame) *
                           s.inner;
  };
  if (!s.timed) frames = 1;
  for (int64_t o = 0; o < s.outer; ++o) {
    for (int64_t m = 0; m < s.mid; ++m) {
      // Frames that lie side by side on both ends are one copy.
      const bool joined = s.timed && !s.time_first;
      const int64_t pieces = joined ? 1 : frames;
      const size_t size = joined ? bytes * static_cast<size_t>(frames) : bytes;
      for (int64_t f = 0; f < pieces; ++f) std::memcpy(at(to, o, m, f), at(from, o, m, f), size);
    }
  }
}

char* bytes_of(const void* data) { return static_cast<char*>(const_cast<void*>(data)); }

// A row of the caller's arrays of port p, of `ports` of them.
template <class Span>
Side row_side(const PoolRows& rows, const Span& span, int64_t row, const void* const* arrays,
              size_t ports, size_t p, int64_t call_bytes) {
  const auto at = static_cast<size_t>(row);
  const int64_t total = span.total == nullptr ? 1 : span.total[row];
  if (!rows.apart) return {bytes_of(arrays[p]), rows.n, row, total, span.frame};
  return {bytes_of(arrays[at * ports + p]) + span.frame * call_bytes, 1, 0, total, span.frame};
}

}  // namespace

// The records as they were, put back unless the call came to its end; for models that may refuse.
class PoolBatch::Undo {
 public:
  Undo(PoolBatch& batch, const PoolRows& rows, bool needed)
      : batch_(batch),
        rows_(rows),
        bytes_(needed ? static_cast<size_t>(batch.layout_->record_bytes) : 0) {
    const size_t all = bytes_ * static_cast<size_t>(rows.n);
    if (all > batch.saved_.size()) batch.saved_ = Buffer(all);
    for (int64_t i = 0; i < rows.n && bytes_ != 0; ++i) {
      std::memcpy(saved(i), rows.records[i], bytes_);
    }
  }
  ~Undo() {
    for (int64_t i = 0; i < rows_.n && bytes_ != 0 && !done_; ++i) {
      std::memcpy(rows_.records[i], saved(i), bytes_);
    }
  }
  void done() { done_ = true; }

 private:
  char* saved(int64_t i) const { return batch_.saved_.data() + static_cast<size_t>(i) * bytes_; }
  PoolBatch& batch_;
  const PoolRows& rows_;
  size_t bytes_;
  bool done_ = false;
};

PoolBatch::PoolBatch(std::shared_ptr<const PoolLayout> layout, int64_t max_rows, int threads)
    : layout_(std::move(layout)), threads_(threads) {
  std::vector<int64_t> sizes;
  for (const int64_t rows : kTileRows) {
    sizes.push_back(rows);
    if (rows >= max_rows) break;
  }
  choice_ = choose_tiles(sizes);
  for (const int64_t rows : sizes) tiles_.push_back(make_tile(rows, 1));
}

PoolBatch::Tile PoolBatch::make_tile(int64_t rows, int64_t frames) {
  Tile tile{rows, frames, std::make_unique<Workspace>(layout_->plan(rows, frames)), {}, {}};
  const auto state_bytes = static_cast<size_t>(tile.workspace->plan().state_bytes);
  size_t stage_bytes = 0;
  const auto place = [&](const std::vector<PoolStrides>& strides, std::vector<char*>& staged) {
    for (const PoolStrides& s : strides) {
      staged.push_back(nullptr);
      stage_bytes += static_cast<size_t>(rows * frames * s.row_bytes + 63) / 64 * 64;
    }
  };
  place(layout_->in_strides, tile.staged_in);
  place(layout_->out_strides, tile.staged_out);
  if (state_bytes > block_.size()) block_ = Buffer(state_bytes);
  if (stage_bytes > stage_.size()) stage_ = Buffer(stage_bytes);
  return tile;
}

PoolBatch::Tile& PoolBatch::tile_for(int64_t rows, int64_t frames) {
  const auto fits = [&](const Tile& tile) { return tile.rows >= rows; };
  const auto found = std::find_if(tiles_.begin(), tiles_.end(), fits);
  if (frames == 1) return *found;
  const auto known = std::find_if(long_tiles_.begin(), long_tiles_.end(), [&](const Tile& tile) {
    return tile.rows == found->rows && tile.frames == frames;
  });
  if (known != long_tiles_.end()) return *known;
  long_tiles_.push_back(make_tile(found->rows, frames));
  return long_tiles_.back();
}

int64_t PoolBatch::bytes() const {
  auto bytes = static_cast<int64_t>(block_.size() + stage_.size() + saved_.size());
  for (const auto* tiles : {&tiles_, &long_tiles_}) {
    for (const Tile& tile : *tiles) bytes += tile.workspace->plan().arena_bytes;
  }
  return bytes;
}

void PoolBatch::gather(const PoolRows& rows, int64_t first, int64_t used, const Tile& tile) {
  const auto& plan = tile.workspace->plan();
  for (size_t k = 0; k < layout_->entries.size(); ++k) {
    const PoolEntry& e = layout_->entries[k];
    char* to = block_.data() + plan.state[k].entry.offset;
    for (int64_t o = 0; o < e.outer; ++o) {
      for (int64_t i = 0; i < tile.rows; ++i) {
        // Rows to spare repeat the last one: whatever it holds is a state.
        const char* record = rows.records[first + std::min(i, used - 1)];
        std::memcpy(to, record + e.offset + o * e.inner, static_cast<size_t>(e.inner));
        to += e.inner;
      }
    }
  }
}

void PoolBatch::scatter(const PoolRows& rows, int64_t first, int64_t used, const Tile& tile) const {
  const auto& plan = tile.workspace->plan();
  for (size_t k = 0; k < layout_->entries.size(); ++k) {
    const PoolEntry& e = layout_->entries[k];
    const char* from = block_.data() + plan.state[k].entry.offset;
    for (int64_t o = 0; o < e.outer; ++o) {
      for (int64_t i = 0; i < used; ++i) {
        std::memcpy(rows.records[first + i] + e.offset + o * e.inner,
                    from + (o * tile.rows + i) * e.inner, static_cast<size_t>(e.inner));
      }
    }
  }
}

// Whether the caller's array can be used in place: it holds the tile's rows one after the other.
bool PoolBatch::direct(const PoolRows& rows, const Span& span, const Tile& tile,
                       const PoolStrides& s) const {
  return !rows.apart && span.total == nullptr && s.outer == 1 && (!s.timed || s.mid == 1) &&
         span.used == tile.rows;
}

// Bytes from one call's array to the next, where a row's arrays follow one another.
int64_t PoolBatch::call_bytes(const Span& span, const PoolStrides& s) const {
  return span.total != nullptr && !layout_->by_frames() ? s.row_bytes : 0;
}

void PoolBatch::bind_inputs(const PoolRows& rows, const Span& span, Tile& tile) const {
  const size_t ports = layout_->ins.size();
  char* stage = stage_.data();
  for (size_t p = 0; p < ports; ++p) {
    const PoolStrides& s = layout_->in_strides[p];
    if (direct(rows, span, tile, s)) {
      tile.workspace->set_input(layout_->ins[p],
                                bytes_of(rows.inputs[p]) + span.first * s.row_bytes);
      continue;
    }
    for (int64_t i = 0; i < tile.rows; ++i) {
      const int64_t row = span.first + std::min(i, span.used - 1);
      const Side from = row_side(rows, span, row, rows.inputs, ports, p, call_bytes(span, s));
      copy_row(s, {stage, tile.rows, i, tile.frames, 0}, from, tile.frames);
    }
    tile.workspace->set_input(layout_->ins[p], stage);
    stage += (tile.rows * tile.frames * s.row_bytes + 63) / 64 * 64;
  }
  for (size_t p = 0; p < layout_->outs.size(); ++p) {
    tile.staged_out[p] = stage;
    stage += (tile.rows * tile.frames * layout_->out_strides[p].row_bytes + 63) / 64 * 64;
  }
}

void PoolBatch::bind_outputs(const PoolRows& rows, const Span& span, Tile& tile) const {
  for (size_t p = 0; p < layout_->outs.size(); ++p) {
    const PoolStrides& s = layout_->out_strides[p];
    char* to = tile.staged_out[p];
    if (direct(rows, span, tile, s)) to = bytes_of(rows.outputs[p]) + span.first * s.row_bytes;
    tile.workspace->set_output(layout_->outs[p], to);
  }
}

void PoolBatch::fetch_outputs(const PoolRows& rows, const Span& span, const Tile& tile) const {
  const size_t ports = layout_->outs.size();
  for (size_t p = 0; p < ports; ++p) {
    const PoolStrides& s = layout_->out_strides[p];
    if (direct(rows, span, tile, s)) continue;
    for (int64_t i = 0; i < span.used; ++i) {
      const Side to =
          row_side(rows, span, span.first + i, rows.outputs, ports, p, call_bytes(span, s));
      copy_row(s, to, {tile.staged_out[p], tile.rows, i, tile.frames, 0}, tile.frames);
    }
  }
}

void PoolBatch::step(const PoolRows& rows) {
  const int64_t most = tiles_.back().rows;
  const bool may_fail = tiles_.front().workspace->plan().may_fail;
  const auto tile_of = [&](int64_t left) -> Tile& {
    return tiles_[choice_[static_cast<size_t>(std::min(left, most))]];
  };
  Undo undo(*this, rows, may_fail && rows.n > tile_of(rows.n).rows);
  for (int64_t first = 0; first < rows.n;) {
    const int64_t left = rows.n - first;
    Tile& tile = tile_of(left);
    const Span span{first, std::min(left, tile.rows), 0, 1, nullptr};
    gather(rows, first, span.used, tile);
    bind_inputs(rows, span, tile);
    bind_outputs(rows, span, tile);
    tile.workspace->set_state(block_.data());
    tile.workspace->run(threads_);
    scatter(rows, first, span.used, tile);
    fetch_outputs(rows, span, tile);
    first += span.used;
  }
  undo.done();
}

void PoolBatch::run(const PoolRows& rows, const int64_t* frames) {
  const bool may_fail = tiles_.front().workspace->plan().may_fail;
  Undo undo(*this, rows, may_fail);
  const int64_t most = tiles_.back().rows;
  for (int64_t first = 0; first < rows.n; first += most) {
    int64_t used = std::min(rows.n - first, most);
    int64_t done = 0;
    while (used > 0) {
      // Rows end in order: those that are left run together until the next one ends.
      const int64_t until = frames[first + used - 1];
      if (until > done) run_segment(rows, {first, used, done, 0, frames}, until);
      done = until;
      while (used > 0 && frames[first + used - 1] <= done) --used;
    }
  }
  undo.done();
}

void PoolBatch::run_segment(const PoolRows& rows, Span span, int64_t until) {
  const Tile* held = nullptr;  // the tile whose block holds the states
  while (span.frame < until) {
    const bool longer = layout_->by_frames() && until - span.frame >= kLongFrames;
    Tile& tile = tile_for(span.used, longer ? kLongFrames : 1);
    span.frames = tile.frames;
    if (held == nullptr) gather(rows, span.first, span.used, tile);
    // Plans of equal rows lay their states out alike.
    held = &tile;
    bind_inputs(rows, span, tile);
    bind_outputs(rows, span, tile);
    tile.workspace->set_state(block_.data());
    tile.workspace->run(threads_);
    fetch_outputs(rows, span, tile);
    span.frame += tile.frames;
  }
  scatter(rows, span.first, span.used, *held);
}

}  // namespace gruengine
