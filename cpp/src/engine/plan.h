// SPDX-License-Identifier: MIT
// A graph with every shape fixed: closures in order, and where each value lies.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/buffer.h"
#include "engine/op.h"
#include "engine/weights.h"
#include "gruengine/model.h"

namespace gruengine {

class RecurrentStack;

struct PlanRequest {
  std::vector<Dims> inputs;  // one for each graph input
  std::string time;          // the symbol whose axes are time, "" when there is none
  bool stateful = false;     // recurrent states and state pairs live in a state block
  bool lengths = false;      // recurrent nodes over time stop each row at its length
  int64_t marked = 0;        // > 0: the streaming analysis; the size given to the time symbol
  std::vector<int> axes;     // in place of `time`: the axis of each input that is time, -1: none
  bool rows = false;         // a 1 in the shapes that the graph writes down may be the rows
  auto operator<=>(const PlanRequest&) const = default;
};

// Where a slot's memory comes from.
struct SlotInfo {
  enum Base : uint8_t { kArena, kConstant, kInput, kOutput, kState, kLengths };
  Base base = kArena;
  int64_t bytes = 0;
  int64_t offset = 0;       // kArena, kState: from the start of the block
  int index = 0;            // kInput, kOutput
  char* address = nullptr;  // kConstant
  int first = 0, last = 0;  // kArena: nodes between which the memory is in use
};

struct Plan {
  struct Shape {
    Time time;
    Dims dims;
  };
  struct Step {
    std::function<void(const Frame&)> run;
    std::shared_ptr<RecurrentStack> stack = nullptr;  // of recurrent layers, which others may join
    int node = 0;                                     // the first of them
  };
  // Initial value of a part of the state block; nullptr: zeros.
  struct StateInit {
    StateEntry entry;
    const void* initial;
  };

  std::vector<Step> steps;
  std::vector<SlotInfo> slots;
  std::vector<Value> inputs;
  std::vector<Value> outputs;
  std::vector<StateInit> state;
  int64_t state_bytes = 0;
  int64_t arena_bytes = 0;
  std::string failed_node;  // why frames cannot be streamed: the first reason met
  std::string failed_why;
  std::map<std::string, std::vector<Shape>> shapes;  // of every value, by name, in order
  bool may_fail = false;  // an operator may refuse the values of integers
  int carried = 0;        // recurrent nodes whose state lives in the block
  int recurrent = 0;      // all recurrent nodes
  int over_time = 0;      // those that step along the time axis

  // Memory that the plan owns: folded constants that depend on its shapes.
  Arena constants;
  WeightStore weights{0};
  std::vector<Buffer> temporaries;
};

// The memory of one run at a time.
class Workspace {
 public:
  explicit Workspace(std::shared_ptr<const Plan> plan);
  void set_input(size_t i, const void* data);
  void set_output(size_t i, void* data);
  void set_state(void* data);
  void set_lengths(const int64_t* data);
  // Runs every step. Denormals are flushed inside; the caller's mode is restored.
  void run(int threads) const;
  const Plan& plan() const { return *plan_; }

 private:
  // A slot that set_* moves.
  struct External {
    SlotInfo::Base base;
    int index;
    Slot slot;
    int64_t offset;
  };

  void bind(SlotInfo::Base base, int index, char* data);
  std::shared_ptr<const Plan> plan_;
  Buffer arena_;
  std::vector<char*> slots_;
  std::vector<External> external_;
};

}  // namespace gruengine
