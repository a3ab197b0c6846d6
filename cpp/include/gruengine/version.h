// SPDX-License-Identifier: MIT
#pragma once

namespace gruengine {

// The version of the library, "major.minor.patch".
const char* version();

}  // namespace gruengine
