// SPDX-License-Identifier: MIT
#include "gruengine/isa.h"

#include "isa/dispatch.h"

namespace gruengine {

std::vector<IsaStatus> available_isas() {
  std::vector<IsaStatus> all;
  for (const IsaInfo& isa : isa_list())
    all.push_back({isa.name, isa.floats, isa.supported, isa.reason});
  return all;
}

std::string current_isa() { return kernels().isa; }

}  // namespace gruengine
