// SPDX-License-Identifier: MIT
// Many live streams of one model, any subset of them stepped as one batch.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gruengine/export.h"
#include "gruengine/model.h"

namespace gruengine {

// A stream of one pool or scheduler. Positive; never given out twice in 2^27 uses of its place, so
// that ids of closed streams and of other pools are told apart from live ones.
using StreamId = int64_t;

// One array of a step, for one row. A step of n streams takes the same array with n in place of
// dims[row_axis].
struct PoolPort {
  std::string name;
  DType dtype = DType::kFloat32;
  Dims dims;           // as the graph has it, the row axis and the time axis being 1
  int row_axis = 0;    // counts all axes, the time axis too
  int time_axis = -1;  // -1: no time axis
  int64_t count = 0;   // elements
};

// Belongs to one caller at a time: a second concurrent call throws Error(kBusy). A call that throws
// leaves every stream as it was. A step gives each stream the bits of a stream of its own.
class GRUENGINE_API Pool {
 public:
  // `capacity`: streams that can be open at once. `sizes` gives values to symbols beside rows and
  // time. Throws Error(kUnsupported) when the model does not stream or its rows depend on one
  // another, Error(kInvalidArgument) for a capacity outside [1, 2^24].
  Pool(std::shared_ptr<const Model> model, int64_t capacity,
       const std::map<std::string, int64_t>& sizes = {});
  ~Pool();

  const Model& model() const;
  int64_t capacity() const;
  int64_t size() const;  // open streams
  // Bytes of state of one stream, and all bytes the pool takes for it.
  int64_t state_bytes() const;
  int64_t bytes_per_stream() const;
  const std::vector<PoolPort>& inputs() const;
  const std::vector<PoolPort>& outputs() const;
  // Makes room for more. The only call beside the constructor that allocates memory of the pool.
  void grow(int64_t capacity);

  // A stream in the initial state, or in a state of get_state() of a pool or of a Stream with one
  // row. Throws Error(kOverloaded) when the pool is full.
  StreamId open();
  StreamId open(const uint8_t* state, size_t size);
  void close(const StreamId* ids, int64_t n);
  bool is_open(StreamId id) const;
  std::vector<StreamId> ids() const;  // open streams, in the order of their places
  void reset(const StreamId* ids, int64_t n);
  // New streams in the states of others: copies[i] of ids[i]; an id may occur more than once.
  void fork(const StreamId* ids, int64_t n, StreamId* copies);

  // One step of n different streams, in any order. inputs[p]: port p with n rows, row i being that
  // of ids[i]; outputs[p] likewise, not aliasing the inputs. Allocates nothing.
  void step(const StreamId* ids, int64_t n, const void* const* inputs, void* const* outputs);
  // frames[i] >= 0 steps of stream i, bit for bit the same. inputs[i * P + p]: port p of stream i
  // alone (P ports): with time axis that axis is frames[i]; without (models that stream by calls)
  // `frames[i]` arrays one after the other. outputs likewise; an output of a frames model without
  // time axis holds the value after the last frame.
  void run(const StreamId* ids, int64_t n, const int64_t* frames, const void* const* inputs,
           void* const* outputs);

  // Versioned bytes, the same as those of a Stream with one row.
  std::vector<uint8_t> get_state(StreamId id) const;
  void set_state(StreamId id, const uint8_t* bytes, size_t size);
  // The arrays of a state, with the row axis being 1; offsets are those of get_state's block.
  std::vector<StateEntry> state_layout() const;
  int state_row_axis(size_t entry) const;
  // Entry `entry` of n streams, as an array with n rows.
  void read_entry(size_t entry, const StreamId* ids, int64_t n, void* to) const;
  void write_entry(size_t entry, const StreamId* ids, int64_t n, const void* from);

 private:
  struct Impl;
  Pool(const Pool&) = delete;
  std::unique_ptr<Impl> impl_;
  mutable std::atomic<bool> busy_{false};
};

}  // namespace gruengine
