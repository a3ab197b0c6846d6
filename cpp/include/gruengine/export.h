// SPDX-License-Identifier: MIT
// What the shared library shows: everything else in it is hidden.
#pragma once

#if defined(__GNUC__)
#define GRUENGINE_API __attribute__((visibility("default")))
#else
#define GRUENGINE_API
#endif
