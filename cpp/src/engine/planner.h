// SPDX-License-Identifier: MIT
// Builds a Plan: one walk over the nodes with every shape known.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/plan.h"

namespace gruengine {

// What a planner may use of the model.
struct PlanSource {
  const Graph& graph;
  const std::vector<StatePair>& state;
  const std::map<std::string, Value>& constants;  // tensors of the file and what folds from them
  WeightStore& weights;
  const KernelTable& kernels;
  const LowType* low;  // of the compute type; nullptr: float32
  const LowType* low_convolutions;
  int threads;  // that a run may use
};

// Whether runs that carry states return a graph output: states are not, unless there is nothing
// else.
bool is_returned(const Graph& graph, const std::vector<StatePair>& state,
                 const std::string& output);

class Planner {
 public:
  // `guide`: a plan of the same sizes with marked frames, or nullptr. Its time axes are taken over,
  // since one or two frames do not tell the time axis from others of that size.
  Planner(const PlanSource& source, const PlanRequest& request,
          std::shared_ptr<const Plan> guide = nullptr);

  // Throws Error naming the node that does not fit the shapes.
  std::shared_ptr<const Plan> build();

  // Folds the nodes of `graph` that depend on the constants alone; their memory is `arena`'s.
  static void fold(const Graph& graph, const std::vector<StatePair>& state,
                   const KernelTable& kernels, WeightStore& weights, Arena& arena,
                   std::map<std::string, Value>& constants);

 private:
  friend class NodeBuilder;

  struct Fold {
    bool on = false;
    bool of_model = false;
    bool sized_by_time = false;
  };

  void declare_inputs();
  void plan_graph(const Graph& graph);
  void plan_node(const Node& node);
  void plan_if(const Node& node);
  void declare_outputs();
  void emit_state_copies();
  void lay_out();

  const Value* find(const std::string& name);
  const Value& value(const Node& node, const std::string& name);
  void define(const std::string& name, Value value);
  void note_integers(const Value& value);
  void follow_guide(const std::string& name, const Plan::Shape& marked, Value& value);
  Slot new_slot(SlotInfo info);
  Slot constant_slot(void* address, int64_t bytes);
  Slot arena_slot(int64_t bytes);
  void touch(Slot slot);
  void add_recurrent(const std::shared_ptr<const RecurrentPlan>& layer);
  void keep_together(int node);
  char* fold_memory(int64_t bytes);
  // Adds an array to the state block and returns its slot.
  Slot state_slot(const std::string& name, DType dtype, const Dims& dims, const void* initial);
  bool is_state_input(const std::string& name) const;
  bool is_time(size_t input, size_t axis) const;
  void fail_frames(const std::string& node, const std::string& why);

  const PlanSource& source_;
  const PlanRequest& request_;
  const std::shared_ptr<const Plan> guide_;
  std::shared_ptr<Plan> plan_ = std::make_shared<Plan>();
  std::vector<std::map<std::string, Value>> scopes_{1};
  Fold fold_;
  Arena* fold_arena_ = nullptr;  // of the model, while folding for it
  std::vector<char*> fold_slots_;
  Slot lengths_slot_ = 0;
  int64_t fold_limit_ = int64_t{16} << 20;  // bytes that folding may take: grows with the model
  int64_t folded_ = 0;
  int index_ = 0;       // of the node being planned
  int depth_ = 0;       // of nested subgraphs
  int64_t frames_ = 0;  // the size of the time axes
  std::string misfit_;  // a value whose form depends on the number of frames
};

}  // namespace gruengine
