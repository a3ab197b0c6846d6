// SPDX-License-Identifier: MIT
#pragma once

#include "gruengine/export.h"

namespace gruengine {

// The version of the library, "major.minor.patch".
GRUENGINE_API const char* version();

}  // namespace gruengine
