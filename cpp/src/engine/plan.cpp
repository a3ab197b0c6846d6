// SPDX-License-Identifier: MIT
#include "engine/plan.h"

#include "isa/denormals.h"

namespace gruengine {

Workspace::Workspace(std::shared_ptr<const Plan> plan)
    : plan_(std::move(plan)), arena_(static_cast<size_t>(plan_->arena_bytes)) {
  for (const SlotInfo& slot : plan_->slots) {
    switch (slot.base) {
      case SlotInfo::kArena:
        slots_.push_back(arena_.data() + slot.offset);
        break;
      case SlotInfo::kConstant:
        slots_.push_back(slot.address);
        break;
      default:
        external_.push_back({slot.base, slot.index, static_cast<Slot>(slots_.size()), slot.offset});
        slots_.push_back(nullptr);
    }
  }
}

void Workspace::bind(SlotInfo::Base base, int index, char* data) {
  for (const External& slot : external_) {
    if (slot.base == base && slot.index == index) slots_[slot.slot] = data + slot.offset;
  }
}

void Workspace::set_input(size_t i, const void* data) {
  bind(SlotInfo::kInput, static_cast<int>(i), static_cast<char*>(const_cast<void*>(data)));
}
void Workspace::set_output(size_t i, void* data) {
  bind(SlotInfo::kOutput, static_cast<int>(i), static_cast<char*>(data));
}
void Workspace::set_state(void* data) { bind(SlotInfo::kState, 0, static_cast<char*>(data)); }
void Workspace::set_lengths(const int64_t* data) {
  bind(SlotInfo::kLengths, 0, reinterpret_cast<char*>(const_cast<int64_t*>(data)));
}

void Workspace::run(int threads) const {
  const FlushDenormals flush;
  const Frame frame{slots_.data(), threads};
  for (const Plan::Step& step : plan_->steps) step.run(frame);
}

}  // namespace gruengine
