// SPDX-License-Identifier: MIT
#pragma once

#include <pybind11/pybind11.h>

namespace gruengine {

void register_runtime(pybind11::module_& m);
void register_model(pybind11::module_& m);
void register_train(pybind11::module_& m);
void register_train_math(pybind11::module_& m);

}  // namespace gruengine
