// SPDX-License-Identifier: MIT
#include <pybind11/pybind11.h>

#include "errors.h"
#include "gruengine/error.h"
#include "register.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "The C++ core of gruengine.";
  pybind11::register_exception_translator([](std::exception_ptr pending) {
    try {
      if (pending) std::rethrow_exception(pending);
    } catch (const gruengine::Error&) {
      gruengine::raise_python_error();
    }
  });
  gruengine::register_runtime(m);
  gruengine::register_model(m);
  gruengine::register_train(m);
  gruengine::register_train_math(m);
}
