// SPDX-License-Identifier: MIT
#include <pybind11/stl.h>

#include "gruengine/isa.h"
#include "register.h"

namespace py = pybind11;

namespace gruengine {

void register_runtime(py::module_& m) {
  m.def("available_isas", [] {
    py::list all;
    for (const IsaStatus& isa : available_isas()) {
      all.append(py::make_tuple(isa.name, isa.floats, isa.supported, isa.reason));
    }
    return all;
  });
  m.def("current_isa", &current_isa);
  m.def("isa_choice", &isa_choice);
  m.def("force_isa", &force_isa, py::arg("name"));
  m.def("max_threads", &max_threads);
}

}  // namespace gruengine
