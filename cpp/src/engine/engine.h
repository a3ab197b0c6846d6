// SPDX-License-Identifier: MIT
// What a loaded model is made of: the file, its packed weights, and the plans made so far.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/plan.h"
#include "engine/planner.h"
#include "fork_mutex.h"
#include "gruengine/model.h"
#include "io/model_file.h"
#include "isa/table.h"

namespace gruengine {

using Sizes = std::map<std::string, int64_t>;  // values of symbols

class Engine {
 public:
  Engine(std::shared_ptr<const ModelFile> file, const ModelOptions& options);

  const ModelFile& file() const { return *file_; }
  const ModelOptions& options() const { return options_; }
  const KernelTable& kernels() const { return kernels_; }
  ComputeType compute_type() const { return compute_type_; }
  const Streaming& streaming() const { return streaming_; }
  const WeightStore& weights() const { return weights_; }
  bool is_state_input(const std::string& name) const;
  bool is_returned(const std::string& output) const;

  // A plan for these shapes; the newest few are kept.
  std::shared_ptr<const Plan> plan(const PlanRequest& request) const;
  // A plan that is not kept, for the streaming analysis.
  std::shared_ptr<const Plan> plan_once(const PlanRequest& request) const;

  // A workspace of a plan, lent to one run at a time.
  class Lease {
   public:
    Lease(const Engine& engine, std::shared_ptr<const Plan> plan);
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease();
    Workspace& operator*() const { return *workspace_; }
    Workspace* operator->() const { return workspace_.get(); }

   private:
    const Engine& engine_;
    std::unique_ptr<Workspace> workspace_;
  };

  // Shapes of all inputs when symbols have these values. Error(kInvalidArgument) names open ones.
  std::vector<Dims> input_dims(const Sizes& sizes) const;
  // Checks arrays against the signature: dtype, rank, fixed sizes, equal symbols.
  void check_inputs(const std::vector<ConstView>& inputs, bool skip_state) const;

 private:
  PlanSource source() const;
  std::shared_ptr<const Plan> guide_for(const PlanRequest& request) const;

  std::shared_ptr<const ModelFile> file_;
  ModelOptions options_;
  const KernelTable& kernels_;
  ComputeType compute_type_;
  std::optional<LowType> low_, low_convolutions_;  // nothing: float32
  mutable WeightStore weights_;
  Arena folded_;
  std::map<std::string, Value> constants_;
  Streaming streaming_;

  struct Entry {
    PlanRequest request;
    std::shared_ptr<const Plan> plan;
  };
  mutable ForkMutex mutex_;
  mutable std::list<Entry> plans_;  // newest first
  mutable std::vector<std::unique_ptr<Workspace>> idle_;
};

// A number of frames that is no other size of these tensors and inputs (streaming.cpp).
int64_t choose_mark(const ModelFile& file, const std::vector<Dims>& inputs);
// Whether and how the model streams (streaming.cpp).
Streaming analyse_streaming(const Engine& engine);

}  // namespace gruengine
