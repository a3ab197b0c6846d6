// SPDX-License-Identifier: MIT
// Recurrent layers that follow one another directly, and how threads share them.
#pragma once

#include <memory>
#include <vector>

#include "engine/recurrent.h"

namespace gruengine {

// Threads share a stack in one of two ways. Split: each takes some hidden units of one layer, and
// they meet after every step. Lanes: each takes whole layers or directions; layer l at one piece of
// time runs beside layer l + 1 at the piece before.
class RecurrentStack {
 public:
  // `threads`: that a run may use.
  RecurrentStack(std::shared_ptr<const RecurrentPlan> layer, int threads) : threads_(threads) {
    add(std::move(layer));
  }
  // Whether a layer planned right after may run with the others: it reads nothing of them but the
  // outputs of the last one, step by step.
  bool takes(const RecurrentPlan& next) const;
  void add(std::shared_ptr<const RecurrentPlan> layer);
  void run(const Frame& frame) const;

 private:
  static constexpr int kMostLanes = 16;
  static constexpr int64_t kMostPieces = 16;
  struct Lane {
    const RecurrentPlan* layer;
    RecurrentPlan::Sequence sequence;
    int before;  // the lane whose outputs it reads; -1: none
  };
  struct Lanes {
    Lane lane[kMostLanes];
    int count = 0;
  };
  struct Way {
    int threads = 1;
    bool lanes = false, wake = false;
    int64_t piece = 1;  // steps of a piece of time
  };

  Way choose_way() const;
  void run_lanes(const Lanes& all) const;

  int threads_;
  Way way_;
  bool plain_ = false;  // one thread steps one layer after the other
  std::vector<std::shared_ptr<const RecurrentPlan>> layers_;
};

// Of one layer alone: whether steps are long enough to be shared, and the run to wake threads.
bool worth_sharing(const RecurrentPlan& layer);
bool worth_waking(const RecurrentPlan& layer);

}  // namespace gruengine
