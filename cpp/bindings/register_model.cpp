// SPDX-License-Identifier: MIT
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstring>

#include "gruengine/model.h"
#include "gil.h"
#include "register.h"

namespace py = pybind11;

namespace gruengine {
namespace {

using ModelPtr = std::shared_ptr<const Model>;

py::dtype numpy_dtype(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return py::dtype::of<float>();
    case DType::kInt64:
      return py::dtype::of<int64_t>();
    case DType::kInt32:
      return py::dtype::of<int32_t>();
    default:
      return py::dtype::of<bool>();
  }
}

// Arrays of a built-in type share one dtype object as a rule; comparing what they say is slow.
DType dtype_of(const py::array& array) {
  const py::dtype dtype = array.dtype();
  for (const DType known : {DType::kFloat32, DType::kInt64, DType::kInt32, DType::kBool}) {
    const py::dtype wanted = numpy_dtype(known);
    if (dtype.is(wanted) || dtype.equal(wanted)) return known;
  }
  throw Error(ErrorCode::kInvalidType, "an input has dtype " + std::string(py::str(dtype)) +
                                           "; it must be float32, int64, int32 or bool");
}

ConstView view_of(const py::array& array) {
  if ((array.flags() & py::array::c_style) == 0) {
    throw Error(ErrorCode::kInvalidType, "an input is not C-contiguous");
  }
  return {array.data(), dtype_of(array), Dims(array.shape(), array.shape() + array.ndim())};
}

// Collects the outputs of a run as new arrays. Runs without the GIL, so it takes it to allocate.
struct Outputs {
  std::vector<py::object> arrays;
  explicit Outputs(size_t n) : arrays(n, py::none()) {}
  OutputAllocator allocator() {
    return [this](size_t i, DType dtype, const Dims& dims) {
      const GilAcquire gil;
      py::array array(numpy_dtype(dtype), dims);
      void* data = array.mutable_data();
      arrays[i] = std::move(array);
      return data;
    };
  }
};

std::vector<ConstView> views_of(const std::vector<py::array>& inputs) {
  std::vector<ConstView> views;
  for (const py::array& input : inputs) views.push_back(view_of(input));
  return views;
}

py::list run(const Model& model, const std::vector<py::array>& inputs) {
  const auto views = views_of(inputs);
  Outputs outputs(model.outputs().size());
  const auto allocate = outputs.allocator();
  {
    const GilRelease release;
    model.run(views, allocate);
  }
  return py::cast(outputs.arrays);
}

// Inputs of state pairs are ignored (their shapes still size the state).
// The state after the run is returned as bytes, or as None when it is not wanted.
py::tuple run_from(const Model& model, const std::vector<py::array>& inputs,
                   const std::optional<std::vector<int64_t>>& lengths,
                   const std::optional<py::bytes>& state, bool wants_state) {
  const auto views = views_of(inputs);
  std::vector<uint8_t> block;
  if (state) {
    const std::string_view bytes = *state;
    block.assign(bytes.begin(), bytes.end());
  }
  Outputs outputs(model.outputs().size());
  const auto allocate = outputs.allocator();
  {
    const GilRelease release;
    model.run_from(views, lengths ? lengths->data() : nullptr,
                   lengths ? static_cast<int64_t>(lengths->size()) : 0, block, allocate);
  }
  const auto* after = reinterpret_cast<const char*>(block.data());
  return py::make_tuple(outputs.arrays,
                        wants_state ? py::object(py::bytes(after, block.size())) : py::none());
}

py::list ports(const std::vector<Port>& ports) {
  py::list all;
  for (const Port& port : ports) {
    py::list shape;
    for (const Dim& dim : port.shape) {
      if (dim.symbol.empty()) {
        shape.append(dim.value);
      } else {
        shape.append(dim.symbol);
      }
    }
    all.append(py::make_tuple(port.name, name_of(port.dtype), py::tuple(shape)));
  }
  return all;
}

py::dict arrays(const std::map<std::string, ConstView>& views) {
  py::dict all;
  for (const auto& [name, view] : views) {
    py::array array(numpy_dtype(view.dtype), view.dims);
    if (array.nbytes() > 0) {
      std::memcpy(array.mutable_data(), view.data, static_cast<size_t>(array.nbytes()));
    }
    all[py::str(name)] = array;
  }
  return all;
}

py::dict streaming(const Model& model) {
  const Streaming& s = model.streaming();
  py::dict all;
  all["form"] = s.form == Streaming::Form::kFrames  ? py::object(py::str("frames"))
                : s.form == Streaming::Form::kCalls ? py::object(py::str("calls"))
                                                    : py::none();
  all["time"] = s.time;
  all["batch"] = s.batch;
  all["node"] = s.node;
  all["reason"] = s.reason;
  return all;
}

py::list layout(const Model& model, const std::vector<Dims>& inputs) {
  py::list all;
  for (const StateEntry& entry : model.state_layout(inputs)) {
    all.append(py::make_tuple(entry.name, name_of(entry.dtype), py::tuple(py::cast(entry.dims)),
                              entry.offset));
  }
  return all;
}

ModelOptions options_of(int num_threads, const std::optional<std::string>& compute_type) {
  ModelOptions options;
  options.num_threads = num_threads;
  if (compute_type) options.compute_type = compute_type_named(*compute_type);
  return options;
}

py::list state_pairs(const Model& model) {
  py::list all;
  for (const StatePair& pair : model.state_pairs()) {
    all.append(py::make_tuple(pair.input, pair.output));
  }
  return all;
}

}  // namespace

void register_model(py::module_& m) {
  // pybind11 finds NumPy at the first use, which must not be in a thread that Python is ending.
  py::dtype::of<float>();
  // pybind11 keeps shared_ptr<Model>; nothing here changes a model.
  py::class_<Model, std::shared_ptr<Model>>(m, "Model")
      .def_static(
          "open",
          [](const std::string& path, int num_threads,
             const std::optional<std::string>& compute_type) {
            const GilRelease release;
            return std::const_pointer_cast<Model>(
                Model::open(path, options_of(num_threads, compute_type)));
          },
          py::arg("path"), py::arg("num_threads"), py::arg("compute_type") = py::none())
      .def_static(
          "from_memory",
          [](const py::bytes& data, int num_threads,
             const std::optional<std::string>& compute_type) {
            const std::string_view view = data;
            std::vector<uint8_t> bytes(view.begin(), view.end());
            const GilRelease release;
            return std::const_pointer_cast<Model>(
                Model::from_memory(std::move(bytes), options_of(num_threads, compute_type)));
          },
          py::arg("data"), py::arg("num_threads"), py::arg("compute_type") = py::none())
      .def("run", &run, py::arg("inputs"))
      .def("run_from", &run_from, py::arg("inputs"), py::arg("lengths"), py::arg("state"),
           py::arg("wants_state") = true)
      .def("state_layout", &layout, py::arg("inputs"))
      .def_property_readonly("inputs", [](const Model& model) { return ports(model.inputs()); })
      .def_property_readonly("outputs", [](const Model& model) { return ports(model.outputs()); })
      .def_property_readonly("state_pairs", &state_pairs)
      .def_property_readonly("streaming", &streaming)
      .def_property_readonly("hash", &Model::hash)
      .def_property_readonly("provenance", &Model::provenance)
      .def("file",
           [](const Model& model) {
             const auto file = model.file();
             return py::bytes(reinterpret_cast<const char*>(file.data()), file.size());
           })
      .def_property_readonly("isa", &Model::isa)
      .def_property_readonly("num_threads", &Model::num_threads)
      .def_property_readonly("compute_type",
                             [](const Model& model) { return name_of(model.compute_type()); })
      .def_property_readonly("packed_bytes", &Model::packed_bytes)
      .def_property_readonly("parity_inputs",
                             [](const Model& model) { return arrays(model.parity_inputs()); })
      .def_property_readonly("parity_outputs",
                             [](const Model& model) { return arrays(model.parity_outputs()); })
      .def_property_readonly("parity_oracle", &Model::parity_oracle)
      // A shared_ptr<const Model>* for gruengine._stream.
      .def("_capsule", [](std::shared_ptr<Model> model) {
        return py::capsule(
            new ModelPtr(std::move(model)), "gruengine.Model", [](PyObject* capsule) {
              delete static_cast<ModelPtr*>(PyCapsule_GetPointer(capsule, "gruengine.Model"));
            });
      });
}

}  // namespace gruengine
