// SPDX-License-Identifier: MIT
#include "isa/dispatch.h"

#include <atomic>
#include <cstdlib>
#include <string>
#include <vector>

#include "gruengine/error.h"
#include "gruengine/isa.h"
#include "isa/detect.h"
#include "isa/low_table.h"
#include "isa/table.h"
#include "isa/train_table.h"

namespace gruengine {

// Rows that share the float kernels of another set name it as `base`, and take its products in
// bfloat16 where they have none.
#define GRU_ISA_ROW(name, base)        \
  namespace base {                     \
  extern const KernelTable table;      \
  extern const TrainTable train_table; \
  }                                    \
  namespace name {                     \
  extern const LowTable low_table;     \
  }
#include "isa_list.inc"
#undef GRU_ISA_ROW

namespace {

std::atomic<const KernelTable*> forced{nullptr};

std::vector<IsaInfo> make_list() {
  std::vector<IsaInfo> list;
  const auto add = [&list](const char* name, const char* floats, const char* missing,
                           KernelTable* table, LowTable* low, const LowTable& base_low,
                           const TrainTable* train) {
    if (low->bfloat16.gemm == nullptr) low->bfloat16 = base_low.bfloat16;
    table->isa = name;
    table->low = low;
    table->train = train;
    list.push_back({name, floats, *missing == '\0', missing, table});
  };
#define GRU_ISA_ROW(name, base)                                                    \
  static KernelTable name##_table = base::table;                                   \
  static LowTable name##_low = name::low_table;                                    \
  add(#name, #base, missing_##name(), &name##_table, &name##_low, base::low_table, \
      &base::train_table);
#include "isa_list.inc"
#undef GRU_ISA_ROW
  return list;
}

std::string supported_names() {
  std::string names;
  for (const IsaInfo& isa : isa_list()) {
    if (!isa.supported) continue;
    if (!names.empty()) names += ", ";
    names += isa.name;
  }
  return names;
}

const KernelTable& find(const std::string& name, const std::string& source) {
  for (const IsaInfo& isa : isa_list()) {
    if (name != isa.name) continue;
    if (isa.supported) return *isa.table;
    throw Error(ErrorCode::kInvalidArgument, source + " asks for the instruction set '" + name +
                                                 "', but " + isa.reason +
                                                 "; this machine supports: " + supported_names());
  }
  throw Error(ErrorCode::kInvalidArgument, source + " asks for the unknown instruction set '" +
                                               name +
                                               "'; this machine supports: " + supported_names());
}

const char* environment() {
  const char* name = std::getenv("GRUENGINE_ISA");
  return name != nullptr && *name != '\0' ? name : nullptr;
}

const KernelTable& default_table() {
  if (const char* name = environment()) return find(name, "GRUENGINE_ISA");
  const KernelTable* best = nullptr;
  for (const IsaInfo& isa : isa_list()) {
    if (isa.supported) best = isa.table;
  }
  return *best;
}

}  // namespace

const std::vector<IsaInfo>& isa_list() {
  static const std::vector<IsaInfo> list = make_list();
  return list;
}

const KernelTable& kernels() {
  if (const KernelTable* table = forced.load(std::memory_order_acquire)) return *table;
  // A throwing initialiser runs again at the next call: a wrong variable is reported each time.
  static const KernelTable& table = default_table();
  return table;
}

std::string isa_choice() {
  if (forced.load(std::memory_order_acquire) != nullptr) return "forced by gr.isa";
  return environment() != nullptr ? "forced by GRUENGINE_ISA" : "best supported";
}

void force_isa(const std::string& name) {
  forced.store(name.empty() ? nullptr : &find(name, "gr.isa"), std::memory_order_release);
}

}  // namespace gruengine
