// SPDX-License-Identifier: MIT
#include "gruengine/version.h"

namespace gruengine {

const char* version() { return GRUENGINE_VERSION; }

}  // namespace gruengine
