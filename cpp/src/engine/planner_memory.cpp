// SPDX-License-Identifier: MIT
// The end of planning: where outputs and states go, and which values share memory.
#include <algorithm>
#include <cstring>

#include "engine/planner.h"
#include "engine/recurrent_stack.h"

namespace gruengine {

void Planner::declare_outputs() {
  const auto& ports = source_.graph.outputs;
  for (size_t i = 0; i < ports.size(); ++i) {
    const Node none{"output", ports[i].name, {}, {}, {}};
    Value value = this->value(none, ports[i].name);
    touch(value.slot);
    if (value.constant != nullptr && value.sized_by_time && value.time.kind != Time::kFrames) {
      fail_frames("", "output '" + ports[i].name + "' is computed from the number of frames");
    }
    if (!request_.stateful || is_returned(source_.graph, source_.state, ports[i].name)) {
      SlotInfo& info = plan_->slots[value.slot];
      if (info.base == SlotInfo::kArena) {
        info.base = SlotInfo::kOutput;
        info.index = static_cast<int>(i);
      } else {
        SlotInfo copy;
        copy.base = SlotInfo::kOutput;
        copy.index = static_cast<int>(i);
        copy.bytes = count(value.dims) * size_of(value.dtype);
        const Slot from = value.slot;
        const Slot to = new_slot(copy);
        const auto bytes = static_cast<size_t>(copy.bytes);
        plan_->steps.push_back({[from, to, bytes](const Frame& f) {
          if (bytes != 0) std::memcpy(f.at<char>(to), f.at<char>(from), bytes);
        }});
        value.slot = to;
      }
    }
    plan_->outputs.push_back(value);
  }
}

void Planner::emit_state_copies() {
  if (!request_.stateful || source_.state.empty()) return;
  struct Copy {
    Slot from, to;
    size_t bytes;
  };
  std::vector<Copy> first, second;
  for (const StatePair& pair : source_.state) {
    const Node none{"state", pair.output, {}, {}, {}};
    const Value& from = value(none, pair.output);
    const Value& to = value(none, pair.input);
    if (from.dims != to.dims || from.dtype != to.dtype) {
      throw Error(ErrorCode::kInvalidArgument, "state output '" + pair.output + "' has shape " +
                                                   to_string(from.dims) + " where its input '" +
                                                   pair.input + "' has " + to_string(to.dims));
    }
    touch(from.slot);
    const auto bytes = static_cast<size_t>(count(to.dims) * size_of(to.dtype));
    Slot source = from.slot;
    if (plan_->slots[source].base == SlotInfo::kState) {
      // A state that is another state's next value: both are read before either is written.
      const Slot staged = arena_slot(static_cast<int64_t>(bytes));
      first.push_back({source, staged, bytes});
      source = staged;
    }
    second.push_back({source, to.slot, bytes});
  }
  for (const auto* copies : {&first, &second}) {
    for (const Copy& copy : *copies) {
      plan_->steps.push_back({[copy](const Frame& f) {
        if (copy.bytes != 0) std::memcpy(f.at<char>(copy.to), f.at<char>(copy.from), copy.bytes);
      }});
    }
  }
}

// Layers run one by one where there is one thread: then their memory is shared better.
void Planner::add_recurrent(const std::shared_ptr<const RecurrentPlan>& layer) {
  if (source_.threads > 1 && !plan_->steps.empty()) {
    Plan::Step& step = plan_->steps.back();
    if (step.stack != nullptr && step.stack->takes(*layer)) {
      step.stack->add(layer);
      return keep_together(step.node);
    }
  }
  const auto stack = std::make_shared<RecurrentStack>(layer, source_.threads);
  plan_->steps.push_back({[stack](const Frame& frame) { stack->run(frame); }, stack, index_});
}

// All that is used from `node` to the one being planned is in use at the same time.
void Planner::keep_together(int node) {
  for (SlotInfo& slot : plan_->slots) {
    if (slot.last < node) continue;
    slot.first = std::min(slot.first, node);
    slot.last = std::max(slot.last, index_);
  }
}

void Planner::lay_out() {
  std::vector<SlotInfo*> order;
  for (SlotInfo& slot : plan_->slots) {
    if (slot.base == SlotInfo::kArena) order.push_back(&slot);
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const SlotInfo* a, const SlotInfo* b) { return a->bytes > b->bytes; });
  std::vector<const SlotInfo*> placed;  // by offset
  for (SlotInfo* slot : order) {
    int64_t at = 0;
    for (const SlotInfo* other : placed) {
      if (slot->last < other->first || other->last < slot->first) continue;
      if (at + slot->bytes <= other->offset) break;
      at = std::max(at, other->offset + other->bytes);
    }
    slot->offset = at;
    placed.insert(std::upper_bound(
                      placed.begin(), placed.end(), slot,
                      [](const SlotInfo* a, const SlotInfo* b) { return a->offset < b->offset; }),
                  slot);
    plan_->arena_bytes = std::max(plan_->arena_bytes, at + slot->bytes);
  }
}

}  // namespace gruengine
