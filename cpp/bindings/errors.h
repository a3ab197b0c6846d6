// SPDX-License-Identifier: MIT
#pragma once

namespace gruengine {

// Turns the C++ exception being handled into the Python exception of gruengine.errors that fits.
// The GIL must be held.
void raise_python_error();

}  // namespace gruengine
