// SPDX-License-Identifier: MIT
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "array.h"
#include "gruengine/training_math.h"
#include "gil.h"
#include "register.h"

namespace py = pybind11;

namespace gruengine {
namespace {

int64_t count_of(const py::array& array) { return static_cast<int64_t>(array.size()); }

Shape shape_of(const py::array& array) {
  return Shape(array.shape(), array.shape() + array.ndim());
}

py::array train_matmul(const py::array& a, const py::array& b, bool a_transposed, bool b_transposed,
                       const OptionalArray& bias, OptionalArray& out, bool accumulate,
                       int num_threads, const std::string& compute_type) {
  expect_rank(a, "a", 2, "[m, k], or [k, m] transposed");
  expect_rank(b, "b", 2, "[k, n], or [n, k] transposed");
  Matmul p{};
  p.m = a.shape(a_transposed ? 1 : 0);
  p.k = a.shape(a_transposed ? 0 : 1);
  p.n = b.shape(b_transposed ? 0 : 1);
  expect_shape(b, "b", b_transposed ? Shape{p.n, p.k} : Shape{p.k, p.n});
  if (accumulate && (!out || bias)) {
    throw Error(ErrorCode::kInvalidArgument, "accumulate needs out, and no bias");
  }
  p.a = elements<float>(a, "a");
  p.b = elements<float>(b, "b");
  p.a_transposed = a_transposed;
  p.b_transposed = b_transposed;
  p.bias = floats(bias, "bias", {p.n});
  const ComputeType type = compute_type_named(compute_type);
  p.accumulate = accumulate;
  py::array c = out ? *out : py::array(new_floats({p.m, p.n}));
  expect_shape(c, "out", {p.m, p.n});
  p.c = writable<float>(c, "out");
  if (c.is(a) || c.is(b)) throw Error(ErrorCode::kInvalidArgument, "out is an operand");
  {
    const GilRelease release;
    matmul(p, num_threads, type);
  }
  return c;
}

py::array train_sum_rows(const py::array& x, OptionalArray& out, bool accumulate) {
  expect_rank(x, "x", 2, "[rows, n]");
  if (accumulate && !out) throw Error(ErrorCode::kInvalidArgument, "accumulate needs out");
  py::array sums = out ? *out : py::array(new_floats({x.shape(1)}));
  expect_shape(sums, "out", {x.shape(1)});
  const float* from = elements<float>(x, "x");
  float* to = writable<float>(sums, "out");
  const GilRelease release;
  sum_rows(from, x.shape(0), x.shape(1), accumulate, to);
  return sums;
}

void train_embedding_gradient(const py::array& ids, const py::array& dy, py::array& table) {
  expect_rank(ids, "ids", 1, "[M]");
  expect_rank(table, "table", 2, "[size, width]");
  expect_shape(dy, "dy", {ids.shape(0), table.shape(1)});
  const auto* at = elements<int64_t>(ids, "ids");
  const float* from = elements<float>(dy, "dy");
  float* to = writable<float>(table, "table");
  const GilRelease release;
  embedding_gradient(at, ids.shape(0), from, table.shape(1), table.shape(0), to);
}

py::tuple train_cross_entropy(const py::array& logits, const py::array& targets,
                              const OptionalArray& weights, int64_t ignored) {
  expect_rank(logits, "logits", 2, "[M, C]");
  const auto rows = logits.shape(0), n = logits.shape(1);
  expect_shape(targets, "targets", {rows});
  if (n == 0) throw Error(ErrorCode::kInvalidArgument, "logits have 0 classes");
  const float* x = elements<float>(logits, "logits");
  const auto* target = elements<int64_t>(targets, "targets");
  const float* weight = floats(weights, "weights", {rows});
  auto losses = new_floats({rows}), gradient = new_floats({rows, n});
  float* loss_at = losses.mutable_data();
  float* dx = gradient.mutable_data();
  {
    const GilRelease release;
    cross_entropy(x, rows, n, target, weight, ignored, loss_at, dx);
  }
  return py::make_tuple(losses, gradient);
}

double train_sum_of_squares(const py::array& x) {
  const float* at = elements<float>(x, "x");
  const int64_t n = count_of(x);
  const GilRelease release;
  return sum_of_squares(at, n);
}

ParameterUpdate update_of(py::array& w, const py::array& g, OptionalArray m, OptionalArray v,
                          double rate, double weight_decay, double scale) {
  ParameterUpdate u{};
  const Shape shape = shape_of(w);
  const auto moment = [&](OptionalArray& array, const char* name) -> float* {
    if (!array) return nullptr;
    expect_shape(*array, name, shape);
    return writable<float>(*array, name);
  };
  expect_shape(g, "g", shape);
  u.n = count_of(w);
  u.w = writable<float>(w, "w");
  u.g = elements<float>(g, "g");
  u.m = moment(m, "m");
  u.v = moment(v, "v");
  u.scale = static_cast<float>(scale);
  u.rate = rate;
  u.weight_decay = weight_decay;
  return u;
}

void train_sgd(py::array& w, const py::array& g, const OptionalArray& m, double rate,
               double momentum, double dampening, bool nesterov, double weight_decay, double scale,
               int num_threads) {
  ParameterUpdate u = update_of(w, g, m, std::nullopt, rate, weight_decay, scale);
  u.beta1 = momentum;
  u.beta2 = dampening;
  u.nesterov = nesterov;
  const GilRelease release;
  sgd(u, num_threads);
}

void train_rmsprop(py::array& w, const py::array& g, const py::array& v, const OptionalArray& m,
                   double rate, double smoothing, double momentum, double eps, double weight_decay,
                   double scale, int num_threads) {
  ParameterUpdate u = update_of(w, g, m, v, rate, weight_decay, scale);
  u.beta1 = momentum;
  u.beta2 = smoothing;
  u.eps = eps;
  const GilRelease release;
  rmsprop(u, num_threads);
}

void train_adam(py::array& w, const py::array& g, const py::array& m, const py::array& v,
                int64_t step, double rate, double beta1, double beta2, double eps,
                double weight_decay, bool decoupled, double scale, int num_threads) {
  if (step < 1) {
    throw Error(ErrorCode::kInvalidArgument,
                "step is " + std::to_string(step) + "; it must be at least 1");
  }
  ParameterUpdate u = update_of(w, g, m, v, rate, weight_decay, scale);
  u.beta1 = beta1;
  u.beta2 = beta2;
  u.eps = eps;
  u.decoupled = decoupled;
  u.step = step;
  const GilRelease release;
  adam(u, num_threads);
}

}  // namespace

void register_train_math(py::module_& m) {
  m.def("train_matmul", &train_matmul, py::arg("a"), py::arg("b"), py::arg("a_transposed") = false,
        py::arg("b_transposed") = false, py::arg("bias") = py::none(), py::arg("out") = py::none(),
        py::arg("accumulate") = false, py::arg("num_threads") = 1,
        py::arg("compute_type") = "float32");
  m.def("train_sum_rows", &train_sum_rows, py::arg("x"), py::arg("out") = py::none(),
        py::arg("accumulate") = false);
  m.def("train_embedding_gradient", &train_embedding_gradient, py::arg("ids"), py::arg("dy"),
        py::arg("table"));
  m.def("train_cross_entropy", &train_cross_entropy, py::arg("logits"), py::arg("targets"),
        py::arg("weights") = py::none(), py::arg("ignored") = -100);
  m.def("train_sum_of_squares", &train_sum_of_squares, py::arg("x"));
  m.def("train_sgd", &train_sgd, py::arg("w"), py::arg("g"), py::arg("m"), py::arg("rate"),
        py::arg("momentum") = 0.0, py::arg("dampening") = 0.0, py::arg("nesterov") = false,
        py::arg("weight_decay") = 0.0, py::arg("scale") = 1.0, py::arg("num_threads") = 1);
  m.def("train_rmsprop", &train_rmsprop, py::arg("w"), py::arg("g"), py::arg("v"), py::arg("m"),
        py::arg("rate"), py::arg("smoothing") = 0.99, py::arg("momentum") = 0.0,
        py::arg("eps") = 1e-8, py::arg("weight_decay") = 0.0, py::arg("scale") = 1.0,
        py::arg("num_threads") = 1);
  m.def("train_adam", &train_adam, py::arg("w"), py::arg("g"), py::arg("m"), py::arg("v"),
        py::arg("step"), py::arg("rate"), py::arg("beta1") = 0.9, py::arg("beta2") = 0.999,
        py::arg("eps") = 1e-8, py::arg("weight_decay") = 0.0, py::arg("decoupled") = false,
        py::arg("scale") = 1.0, py::arg("num_threads") = 1);
}

}  // namespace gruengine
