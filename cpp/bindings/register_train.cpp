// SPDX-License-Identifier: MIT
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <set>

#include "array.h"
#include "gruengine/training.h"
#include "gil.h"
#include "register.h"

namespace py = pybind11;

namespace gruengine {
namespace {

template <class T>
void read(const py::dict& from, const char* name, T& to) {
  if (!from.contains(name)) return;
  try {
    to = py::cast<T>(from[name]);
  } catch (const py::cast_error&) {
    throw Error(ErrorCode::kInvalidArgument, "attribute " + std::string(name) + " is " +
                                                 std::string(py::str(py::repr(from[name]))) +
                                                 ", which is of the wrong type");
  }
}

// The attributes of a Recurrent node, with hidden_size if it is there.
RecurrentAttributes attributes_of(const py::dict& from, int64_t hidden_size) {
  static const std::set<std::string> known = {
      "cell",     "hidden_size", "direction", "activations", "activation_alpha", "activation_beta",
      "clip",     "coupled",     "reset",     "update",      "zoneout",          "norm_epsilon",
      "skip_cost"};
  for (const auto& entry : from) {
    const std::string name = py::str(entry.first);
    if (known.count(name) == 0) {
      throw Error(ErrorCode::kInvalidArgument,
                  "attribute '" + name + "'; a Recurrent node has no such attribute");
    }
  }
  RecurrentAttributes to;
  int64_t size = hidden_size, coupled = 0;
  read(from, "cell", to.cell);
  read(from, "hidden_size", size);
  read(from, "direction", to.direction);
  read(from, "activations", to.activations);
  read(from, "activation_alpha", to.activation_alpha);
  read(from, "activation_beta", to.activation_beta);
  read(from, "clip", to.clip);
  read(from, "coupled", coupled);
  read(from, "reset", to.reset);
  read(from, "update", to.update);
  to.coupled = coupled != 0;
  std::vector<double> zoneout;
  read(from, "zoneout", zoneout);
  if (!zoneout.empty() && zoneout.size() != 2) {
    throw Error(ErrorCode::kInvalidArgument, "attribute zoneout has " +
                                                 std::to_string(zoneout.size()) +
                                                 " numbers; it must have two, of h and c");
  }
  if (!zoneout.empty()) to.zoneout_h = zoneout[0], to.zoneout_c = zoneout[1];
  read(from, "norm_epsilon", to.norm_epsilon);
  read(from, "skip_cost", to.skip_cost);
  if (size != hidden_size) {
    throw Error(ErrorCode::kInvalidArgument, "attribute hidden_size is " + std::to_string(size) +
                                                 "; hidden_size is " + std::to_string(hidden_size));
  }
  return to;
}

// A tape with the arrays that its pointers point into.
struct PyTape {
  std::shared_ptr<RecurrentTape> tape;
  std::vector<OptionalArray> held;
  int64_t steps, rows, k, c;
  bool bias, peepholes, projection, gate_recurrence, norm, skip;
};

struct PyTraining {
  RecurrentTraining layer;

  py::tuple forward(const py::array& x, const py::array& w, const py::array& r,
                    const OptionalArray& b, const OptionalArray& p, const OptionalArray& projection,
                    const OptionalArray& h0, const OptionalArray& c0,
                    const std::optional<py::array_t<int64_t, py::array::c_style>>& lengths,
                    const OptionalArray& gate_recurrence, const OptionalArray& norm,
                    const OptionalArray& skip, const OptionalArray& recurrent_mask,
                    const OptionalArray& keep_h, const OptionalArray& keep_c) const {
    const int64_t D = layer.directions(), G = layer.gates(), H = layer.hidden_size(),
                  I = layer.input_size();
    expect_rank(x, "x", 3, "[T, N, I]");
    expect_rank(r, "R", 3, "[D, G*H, K]");
    const int64_t T = x.shape(0), N = x.shape(1);
    const int64_t K = projection ? std::max<int64_t>(r.shape(2), 1) : H;
    require_lstm(p.has_value(), "P");
    require_lstm(projection.has_value(), "projection");
    require_lstm(gate_recurrence.has_value(), "gate_recurrence");
    require_lstm(norm.has_value(), "norm");
    require_lstm(keep_c.has_value(), "keep_c");
    if (!skip) require_lstm(c0.has_value(), "c0");
    expect_shape(x, "x", {T, N, I});
    expect_shape(w, "W", {D, G * H, I});
    expect_shape(r, "R", {D, G * H, K});
    if (lengths) expect_shape(*lengths, "lengths", {N});
    const RecurrentTraining::Weights weights{
        elements<float>(w, "W"),
        elements<float>(r, "R"),
        floats(b, "B", {D, 2 * G * H}),
        floats(p, "P", {D, 3 * H}),
        floats(projection, "projection", {D, K, H}),
        K,
        floats(gate_recurrence, "gate_recurrence", {D, 3 * H, 3 * H}),
        floats(norm, "norm", {D, 10 * H}),
        floats(skip, "skip", {D, K + 1})};
    const int64_t C = layer.cell_size(weights);
    const RecurrentTraining::Inputs inputs{T,
                                           N,
                                           elements<float>(x, "x"),
                                           floats(h0, "h0", {D, N, K}),
                                           floats(c0, "c0", {D, N, C}),
                                           lengths ? lengths->data() : nullptr,
                                           floats(recurrent_mask, "recurrent_mask", {D, N, K}),
                                           floats(keep_h, "keep_h", {D, T, N, K}),
                                           floats(keep_c, "keep_c", {D, T, N, H})};
    auto y = new_floats({T, N, D * K}), h = new_floats({D, N, K});
    auto c = new_floats(C > 0 ? Shape{D, N, C} : Shape{0});
    const RecurrentTraining::Outputs outputs{y.mutable_data(), h.mutable_data(),
                                             C > 0 ? c.mutable_data() : nullptr};
    std::shared_ptr<RecurrentTape> tape;
    {
      const GilRelease release;
      tape = layer.forward(weights, inputs, outputs);
    }
    PyTape kept{
        tape,
        {x, w, r, b, p, projection, gate_recurrence, norm, skip, recurrent_mask, keep_h, keep_c},
        T,
        N,
        K,
        C,
        b.has_value(),
        p.has_value(),
        projection.has_value(),
        gate_recurrence.has_value(),
        norm.has_value(),
        skip.has_value()};
    return py::make_tuple(y, h, C > 0 ? py::object(c) : py::none(), py::cast(std::move(kept)));
  }

  py::tuple backward(PyTape& tape, const OptionalArray& dy, const OptionalArray& dh,
                     const OptionalArray& dc, bool input_gradient) const {
    const int64_t D = layer.directions(), G = layer.gates(), H = layer.hidden_size(),
                  I = layer.input_size(), T = tape.steps, N = tape.rows, K = tape.k, C = tape.c;
    if (!tape.skip) require_lstm(dc.has_value(), "dc");
    const RecurrentTraining::OutputGradients outputs{
        floats(dy, "dy", {T, N, D * K}), floats(dh, "dh", {D, N, K}), floats(dc, "dc", {D, N, C})};
    py::tuple results(11);
    RecurrentTraining::Gradients to{};
    const auto wanted = [&](size_t i, bool wants, const Shape& shape) -> float* {
      results[i] = py::none();
      if (!wants) return nullptr;
      auto array = new_floats(shape);
      // A pass over nothing writes no sums.
      if (T * N == 0) std::fill_n(array.mutable_data(), array.size(), 0.0f);
      results[i] = array;
      return array.mutable_data();
    };
    to.dx = wanted(0, input_gradient, {T, N, I});
    to.dw = wanted(1, true, {D, G * H, I});
    to.dr = wanted(2, true, {D, G * H, K});
    to.db = wanted(3, tape.bias, {D, 2 * G * H});
    to.dp = wanted(4, tape.peepholes, {D, 3 * H});
    to.dprojection = wanted(5, tape.projection, {D, K, H});
    to.dgate_recurrence = wanted(6, tape.gate_recurrence, {D, 3 * H, 3 * H});
    to.dnorm = wanted(7, tape.norm, {D, 10 * H});
    to.dskip = wanted(8, tape.skip, {D, K + 1});
    to.dh0 = wanted(9, true, {D, N, K});
    to.dc0 = wanted(10, C > 0, {D, N, C});
    {
      const GilRelease release;
      layer.backward(*tape.tape, outputs, to);
    }
    return results;
  }

 private:
  void require_lstm(bool given, const char* name) const {
    if (!given || layer.is_lstm()) return;
    throw Error(ErrorCode::kInvalidArgument,
                std::string(name) + " is given; only a cell 'lstm' " + "allows it");
  }
};

}  // namespace

void register_train(py::module_& m) {
  py::class_<PyTape>(m, "RecurrentTape")
      .def_property_readonly("steps", [](const PyTape& tape) { return tape.steps; })
      .def_property_readonly("rows", [](const PyTape& tape) { return tape.rows; });
  py::class_<PyTraining>(m, "RecurrentTraining")
      .def(py::init([](const py::dict& attributes, int64_t input_size, int64_t hidden_size,
                       int num_threads, const std::string& compute_type) {
             return std::make_unique<PyTraining>(PyTraining{
                 RecurrentTraining(attributes_of(attributes, hidden_size), input_size, hidden_size,
                                   num_threads, compute_type_named(compute_type))});
           }),
           py::arg("attributes"), py::arg("input_size"), py::arg("hidden_size"),
           py::arg("num_threads") = 1, py::arg("compute_type") = "float32")
      .def("forward", &PyTraining::forward, py::arg("x"), py::arg("W"), py::arg("R"),
           py::arg("B") = py::none(), py::arg("P") = py::none(), py::arg("projection") = py::none(),
           py::arg("h0") = py::none(), py::arg("c0") = py::none(), py::arg("lengths") = py::none(),
           py::arg("gate_recurrence") = py::none(), py::arg("norm") = py::none(),
           py::arg("skip") = py::none(), py::arg("recurrent_mask") = py::none(),
           py::arg("keep_h") = py::none(), py::arg("keep_c") = py::none())
      .def("backward", &PyTraining::backward, py::arg("tape"), py::arg("dy") = py::none(),
           py::arg("dh") = py::none(), py::arg("dc") = py::none(),
           py::arg("input_gradient") = true);
}

}  // namespace gruengine
