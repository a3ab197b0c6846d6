// SPDX-License-Identifier: MIT
// What an operator sees while a graph is planned, and while the plan runs.
//
// Planning calls one function per node. It reads the shapes and constants of its inputs, declares
// its outputs (new memory or a view of an input) and emits at most a few closures. The plan lays
// the memory out and runs the closures in order. When every input is constant the node is folded:
// its outputs are constants and its closures run at once, so an operator needs no second form.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/weights.h"
#include "gruengine/error.h"
#include "gruengine/graph.h"
#include "isa/table.h"

namespace gruengine {

class Planner;
struct RecurrentPlan;

using Slot = uint32_t;

// One run of a plan: where each value lies, and how many threads may be used.
struct Frame {
  char* const* slots;
  int threads;
  template <class T>
  T* at(Slot slot) const {
    return reinterpret_cast<T*>(slots[slot]);
  }
};

// How a value depends on time, for the streaming analysis (engine/streaming.cpp).
//   kConstant  the same for every frame
//   kFrames    `axis` is the time axis: frame t depends on frames <= t only
//   kLatest    the newest of a series (a final state): a stream has one for each frame it has seen
struct Time {
  enum Kind : uint8_t { kConstant, kFrames, kLatest };
  Kind kind = kConstant;
  int axis = -1;
  bool operator==(const Time&) const = default;
};

inline Time frames(int axis) { return {Time::kFrames, axis}; }

struct Value {
  DType dtype = DType::kFloat32;
  Dims dims;
  Time time;
  const void* constant = nullptr;  // its elements when known at planning
  bool sized_by_time = false;      // a constant whose elements depend on the number of frames
  bool of_model = false;           // a constant that lives as long as the model
  bool carried = false;            // computed from nothing but constants and carried states
  Slot slot = 0;
};

int64_t count(const Dims& dims);          // product; Error(kInvalidArgument) on overflow
std::string to_string(const Dims& dims);  // "[2, 3]"

// One node being planned.
class NodeBuilder {
 public:
  NodeBuilder(Planner& planner, const Node& node) : planner_(planner), node_(node) {}

  const Node& node() const { return node_; }
  size_t inputs() const { return node_.inputs.size(); }
  bool has(size_t i) const { return i < node_.inputs.size() && !node_.inputs[i].empty(); }
  const Value& in(size_t i) const;  // Error(kInvalidFile) when absent
  size_t outputs() const { return node_.outputs.size(); }
  bool wants(size_t i) const { return i < node_.outputs.size() && !node_.outputs[i].empty(); }

  int64_t attr(const std::string& name, int64_t otherwise) const;
  double attr(const std::string& name, double otherwise) const;
  std::string attr(const std::string& name, const char* otherwise) const;
  std::vector<int64_t> attr_ints(const std::string& name) const;  // empty when absent
  std::vector<double> attr_floats(const std::string& name) const;
  std::vector<std::string> attr_strings(const std::string& name) const;
  bool has_attr(const std::string& name) const { return node_.attributes.count(name) != 0; }

  // Input i as integers (int64 or int32). Error(kUnsupported) unless it is constant at planning.
  std::vector<int64_t> ints(size_t i) const;
  // Input i as one number of any dtype. Error(kUnsupported) unless constant with one element.
  double scalar(size_t i) const;

  // Checks an input's dtype or rank: Error(kInvalidArgument) naming node, got and allowed.
  const Value& expect(size_t i, DType dtype) const;
  const Value& expect_rank(size_t i, size_t rank) const;
  // `axis` in [-rank, rank) made non-negative.
  int axis(int64_t axis, size_t rank) const;

  // Declares output i with memory of its own. Does nothing and returns a slot of scratch when the
  // node does not want it.
  Slot output(size_t i, DType dtype, const Dims& dims, Time time = {});
  // Declares output i as the same bytes as input `in` with other dims of equal count.
  void view(size_t i, size_t in, const Dims& dims, Time time);
  // Declares output i as a constant known now (the shape of an input, say): memory to fill.
  void* constant_output(size_t i, DType dtype, const Dims& dims, bool sized_by_time = false);
  // The marked number of frames while the streaming analysis runs, else 0.
  int64_t marked_frames() const;
  // Whether the plan is for more rows than the one that the graph was made for.
  bool many_rows() const;
  // Memory that only this node's closures use. 64-byte aligned.
  Slot scratch(int64_t bytes);
  void emit(std::function<void(const Frame&)> run);
  // The same for a recurrent layer, which may join the layers before it.
  void emit_recurrent(const std::shared_ptr<const RecurrentPlan>& layer);

  // A constant float32 input as a packed matrix of k rows and n columns:
  // element (row, col) = data[offset + row * row_stride + col * col_stride]. Packed once per model
  // when the constant is the model's.
  const PackedMatrix& packed(size_t i, int64_t k, int64_t n, int64_t row_stride, int64_t col_stride,
                             int64_t offset = 0) const;
  // The same for any order of elements: place(row, col) is where one lies in the constant. `form`
  // names the order; with k and n it identifies the matrix.
  const PackedMatrix& packed(size_t i, int64_t k, int64_t n, const std::string& form,
                             const std::function<int64_t(int64_t, int64_t)>& place) const;
  // `size` floats computed from a constant input by fill(its elements, result), kept as packed
  // matrices are. `form` names what they are.
  const float* derived(size_t i, const std::string& form, int64_t size,
                       const std::function<void(const float*, float*)>& fill) const;
  // n floats of a constant input (from offset, by stride) zero-padded to whole vectors.
  const float* padded(size_t i, int64_t n, int64_t stride = 1, int64_t offset = 0) const;

  const KernelTable& kernels() const;
  // The kernels of a compute type below float32, or nullptr; and the most threads of a run.
  const LowType* low() const;
  const LowType* low_convolutions() const;
  int threads() const;
  // Where packed forms of a constant belong: with the model or with this plan.
  WeightStore& store(const Value& constant) const;

  // For the recurrent node. `stateful`: its state over time lives in the plan's state block, and
  // `carry` adds an array to it, starting from `initial` (nullptr: zeros).
  bool stateful() const;
  Slot carry(const std::string& suffix, const Dims& dims, const void* initial);
  // Whether this run gives each row a length, and where they lie (int64 [N]).
  bool lengths_given() const;
  Slot lengths() const;
  void count_recurrent(bool over_time, bool carried);
  Slot zeros(int64_t floats);

  // Records why the graph cannot be streamed frame by frame: the first reason is kept and shown.
  // Call it when this operator combines frames or uses the number of frames as data.
  void mixes_time(const std::string& why) const;
  // The time of an elementwise result: axes counted from the right; reports clashes.
  Time broadcast_time(const std::vector<size_t>& inputs, size_t out_rank) const;
  // For an operator that keeps shapes and works on each element or along `axis` alone: the time of
  // input i, reported when `axis` is its time axis.
  Time time_along(size_t i, int axis, const char* what) const;

  [[noreturn]] void refuse(ErrorCode code, const std::string& what) const;  // names the node

 private:
  Planner& planner_;
  const Node& node_;
};

using PlanFunction = void (*)(NodeBuilder&);

// The operator of that name, or nullptr (ops/registry.cpp, from the list ops/ops.inc).
PlanFunction find_op(const std::string& name);

}  // namespace gruengine
