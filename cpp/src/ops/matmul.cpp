// SPDX-License-Identifier: MIT
// Matrix products. A constant right side is packed once for the model, another in scratch.
#include <cstring>

#include "ops/copy.h"
#include "ops/low_right.h"
#include "ops/panels.h"

namespace gruengine {
namespace {

constexpr int64_t kMostPacked = 4096;  // matrices of one constant

// -- MatMul -----------------------------------------------------------------------------------

// An input seen as a batch of matrices.
struct Matrices {
  Dims batch;
  int64_t rows, columns;
};

Matrices matrices(const NodeBuilder& b, size_t i) {
  Dims dims = b.expect(i, DType::kFloat32).dims;
  if (dims.empty()) {
    b.refuse(ErrorCode::kInvalidArgument,
             "input " + std::to_string(i) + " is one number; it must have an axis");
  }
  if (dims.size() == 1) dims.insert(i == 0 ? dims.begin() : dims.end(), 1);
  const int64_t columns = dims.back();
  dims.pop_back();
  const int64_t rows = dims.back();
  dims.pop_back();
  return {dims, rows, columns};
}

// The time of a product: a time axis may be one of the batch, rows of the left, columns of the
// right, but not the axis summed over.
Time matmul_time(const NodeBuilder& b, const Dims& out) {
  check_data(b, {0, 1});
  const auto ranks =
      std::array{static_cast<int>(b.in(0).dims.size()), static_cast<int>(b.in(1).dims.size())};
  const int summed[] = {ranks[0] - 1, std::max(ranks[1] - 2, 0)};
  Time time;
  for (const size_t i : {size_t{0}, size_t{1}}) {
    Time own = time_along(b, i, summed[i], "sums over the time axis");
    if (own.kind == Time::kFrames) {
      // Axes from the right in the result, which lacks an axis where the other side is a vector.
      const int lost = ranks[1 - i] == 1 ? 1 : 0;
      own.axis += static_cast<int>(out.size()) - ranks[i] + lost;
    }
    time = merge_times(b, time, own);
  }
  return time;
}

// Where the matrices of each member of the batch start.
struct Batch {
  std::vector<int64_t> a, b;
};

Batch batch_of(const NodeBuilder& b, const Dims& out, const Matrices& x, const Matrices& w) {
  Batch batch;
  const Loops<2> loops(b, out, {broadcast_strides(x.batch, out), broadcast_strides(w.batch, out)});
  loops.run([&](const Loops<2>::Offsets& at) {
    for (int64_t i = 0; i < loops.inner(); ++i) {
      batch.a.push_back((at[0] + i * loops.inner_stride()[0]) * x.rows * x.columns);
      batch.b.push_back((at[1] + i * loops.inner_stride()[1]) * w.rows * w.columns);
    }
  });
  return batch;
}

void emit_constant(NodeBuilder& b, int64_t rows, const PackedMatrix& w, Slot y) {
  b.emit([rows, w, y, x = b.in(0).slot, gemm = b.kernels().gemm](const Frame& f) {
    multiply(f, gemm, product_of(rows, f.at<float>(x), w.k, w, nullptr, 0, f.at<float>(y), w.n));
  });
}

void emit_constant_low(NodeBuilder& b, int64_t rows, const Matrices& w, Slot y) {
  const int64_t n = w.columns;
  const RightForm form{1, w.rows, n, "matmul",
                       [n](int64_t row, int64_t column) { return row * n + column; }};
  const LowRight right = low_right(b, form, rows);
  b.emit([rows, right, y, k = w.rows, n, x = b.in(0).slot](const Frame& f) {
    multiply(
        f, right,
        product_of(rows, f.at<float>(x), k, {nullptr, k, n, 0, 0}, nullptr, 0, f.at<float>(y), n));
  });
}

void emit_constants(NodeBuilder& b, const Batch& batch, const Matrices& x, const Matrices& w,
                    Slot y) {
  std::vector<PackedMatrix> packed;
  packed.reserve(batch.b.size());
  for (const int64_t offset : batch.b) {
    packed.push_back(b.packed(1, w.rows, w.columns, w.columns, 1, offset));
  }
  b.emit([packed, starts = batch.a, rows = x.rows, y, from = b.in(0).slot,
          gemm = b.kernels().gemm](const Frame& f) {
    for (size_t i = 0; i < packed.size(); ++i) {
      const PackedMatrix& matrix = packed[i];
      multiply(f, gemm,
               product_of(rows, f.at<float>(from) + starts[i], matrix.k, matrix, nullptr, 0,
                          f.at<float>(y) + static_cast<int64_t>(i) * rows * matrix.n, matrix.n));
    }
  });
}

void emit_packing(NodeBuilder& b, const Batch& batch, int64_t rows, const Matrices& w, Slot y) {
  const Panels panels(w.rows, w.columns, b.kernels().width);
  const Slot scratch = b.scratch(panels.bytes());
  b.emit([=, x = b.in(0).slot, right = b.in(1).slot, gemm = b.kernels().gemm](const Frame& f) {
    auto* packed = f.at<float>(scratch);
    int64_t last = -1;
    for (size_t i = 0; i < batch.a.size(); ++i) {
      if (batch.b[i] != last) {
        panels.pack(f.at<float>(right) + batch.b[i], panels.n, 1, packed);
        last = batch.b[i];
      }
      multiply(f, gemm,
               product_of(rows, f.at<float>(x) + batch.a[i], panels.k, panels.at(packed), nullptr,
                          0, f.at<float>(y) + static_cast<int64_t>(i) * rows * panels.n, panels.n));
    }
  });
}

// -- Gemm -------------------------------------------------------------------------------------

struct GemmShape {
  int64_t m, n, k;
  bool transposed_a, transposed_b;
  float alpha, beta;
};

GemmShape gemm_shape(const NodeBuilder& b) {
  GemmShape g{};
  g.transposed_a = b.attr("transA", int64_t{0}) != 0;
  g.transposed_b = b.attr("transB", int64_t{0}) != 0;
  g.alpha = static_cast<float>(number(b, "alpha", 1));
  g.beta = b.has(2) ? static_cast<float>(number(b, "beta", 1)) : 0.0f;
  for (size_t i = 0; i < (b.has(2) ? size_t{3} : size_t{2}); ++i) b.expect(i, DType::kFloat32);
  const Dims& a = b.expect_rank(0, 2).dims;
  const Dims& w = b.expect_rank(1, 2).dims;
  g.m = a[g.transposed_a ? 1 : 0];
  g.k = a[g.transposed_a ? 0 : 1];
  g.n = w[g.transposed_b ? 0 : 1];
  if (w[g.transposed_b ? 1 : 0] != g.k) {
    b.refuse(ErrorCode::kInvalidArgument, "multiplies " + to_string(a) + " and " + to_string(w) +
                                              " with transA = " + std::to_string(g.transposed_a) +
                                              ", transB = " + std::to_string(g.transposed_b));
  }
  if (b.has(2) && broadcast_dims(b, {{g.m, g.n}, b.in(2).dims}) != Dims{g.m, g.n}) {
    b.refuse(ErrorCode::kInvalidArgument, "C of shape " + to_string(b.in(2).dims) +
                                              " does not broadcast to " + to_string({g.m, g.n}));
  }
  return g;
}

Time gemm_time(const NodeBuilder& b, const GemmShape& g) {
  const char* sums = "sums over the time axis";
  Time time = time_along(b, 0, g.transposed_a ? 0 : 1, sums);
  if (time.kind == Time::kFrames) time.axis = 0;
  Time right = time_along(b, 1, g.transposed_b ? 1 : 0, sums);
  if (right.kind == Time::kFrames) right.axis = 1;
  time = merge_times(b, time, right);
  if (!b.has(2)) {
    check_data(b, {0, 1});
    return time;
  }
  check_data(b, {0, 1, 2});
  return merge_times(b, time, b.broadcast_time({2}, 2));
}

// Where the addend lies while the plan runs: fixed, or rows made in scratch.
struct Addend {
  const float* fixed = nullptr;
  Slot slot = 0;
  int64_t stride = 0;
  bool any = false;
  const float* at(const Frame& f) const {
    if (!any) return nullptr;
    return fixed != nullptr ? fixed : f.at<float>(slot);
  }
};

// beta * C as one row computed once, when C is constant and the same for every row.
Addend constant_addend(const NodeBuilder& b, const GemmShape& g, int64_t columns) {
  const bool one = count(b.in(2).dims) == 1;
  Addend addend{nullptr, 0, 0, true};
  addend.fixed =
      b.derived(2, "addend" + std::to_string(g.beta), columns, [&](const float* c, float* to) {
        for (int64_t j = 0; j < g.n; ++j) to[j] = g.beta * c[one ? 0 : j];
      });
  return addend;
}

Addend plan_addend(NodeBuilder& b, const GemmShape& g) {
  if (g.beta == 0.0f) return {};
  const Value& c = b.in(2);
  const int64_t columns = whole_vectors(g.n, b.kernels().width);
  const bool is_row =
      c.dims.empty() || count(c.dims) == 1 || (count(c.dims) == g.n && c.dims.back() == g.n);
  if (c.constant != nullptr && is_row) return constant_addend(b, g, columns);
  const Addend addend{nullptr, b.scratch(g.m * columns * int64_t{sizeof(float)}), columns, true};
  const StridedCopy copy(b, c.dtype, {g.m, g.n}, broadcast_strides(c.dims, {g.m, g.n}),
                         {columns, 1});
  const FunctionSpec scale{Function::kAffine, g.beta, 0};
  b.emit([=, from = c.slot, map = b.kernels().map](const Frame& f) {
    auto* to = f.at<float>(addend.slot);
    copy.run(f.at<float>(from), to);
    for (int64_t i = 0; scale.alpha != 1.0f && i < g.m; ++i) {
      map(scale, to + i * columns, to + i * columns, g.n);
    }
  });
  return addend;
}

// The left matrix in rows of k, transposed in scratch where asked.
Slot plan_left(NodeBuilder& b, const GemmShape& g) {
  const Slot from = b.in(0).slot;
  if (!g.transposed_a) return from;
  const Slot to = b.scratch(g.m * g.k * int64_t{sizeof(float)});
  const StridedCopy copy(b, DType::kFloat32, {g.m, g.k}, {1, g.m}, {g.k, 1});
  b.emit([=](const Frame& f) { copy.run(f.at<float>(from), f.at<float>(to)); });
  return to;
}

// The right matrix packed: the model's, or in scratch by an emitted closure.
struct Right {
  PackedMatrix fixed;
  Slot slot = 0;
  LowRight low;
  PackedMatrix at(const Frame& f) const {
    PackedMatrix matrix = fixed;
    if (low.used()) return matrix;
    if (matrix.data == nullptr) matrix.data = f.at<float>(slot);
    return matrix;
  }
};

Right plan_right(NodeBuilder& b, const GemmShape& g) {
  const int64_t row_stride = g.transposed_b ? 1 : g.n;
  const int64_t column_stride = g.transposed_b ? g.k : 1;
  if (b.in(1).constant != nullptr && is_low(b, g.k, g.n)) {
    const RightForm form{
        1, g.k, g.n, g.transposed_b ? "gemm B" : "gemm",
        [=](int64_t row, int64_t column) { return row * row_stride + column * column_stride; }};
    return {{nullptr, g.k, g.n, 0, 0}, 0, low_right(b, form, g.m)};
  }
  if (b.in(1).constant != nullptr) {
    return {b.packed(1, g.k, g.n, row_stride, column_stride), 0, {}};
  }
  const Panels panels(g.k, g.n, b.kernels().width);
  const Right right{panels.at(nullptr), b.scratch(panels.bytes()), {}};
  b.emit([=, from = b.in(1).slot](const Frame& f) {
    panels.pack(f.at<float>(from), row_stride, column_stride, f.at<float>(right.slot));
  });
  return right;
}

}  // namespace

void plan_matmul(NodeBuilder& b) {
  const Matrices x = matrices(b, 0);
  const Matrices w = matrices(b, 1);
  if (x.columns != w.rows) {
    b.refuse(ErrorCode::kInvalidArgument, "multiplies " + to_string(b.in(0).dims) + " and " +
                                              to_string(b.in(1).dims) +
                                              "; the sizes summed over must be equal");
  }
  const Dims batch = broadcast_dims(b, {x.batch, w.batch});
  Dims out = batch;
  if (b.in(0).dims.size() > 1) out.push_back(x.rows);
  if (b.in(1).dims.size() > 1) out.push_back(w.columns);
  const Time time = matmul_time(b, out);
  const Slot y = b.output(0, DType::kFloat32, out, time);
  const bool constant = b.in(1).constant != nullptr;
  if (count(w.batch) == 1) {
    const int64_t rows = count(batch) * x.rows;
    if (constant && is_low(b, w.rows, w.columns)) return emit_constant_low(b, rows, w, y);
    if (constant) return emit_constant(b, rows, b.packed(1, w.rows, w.columns, w.columns, 1), y);
    return emit_packing(b, {{0}, {0}}, rows, w, y);
  }
  const Batch starts = batch_of(b, batch, x, w);
  if (constant && count(batch) <= kMostPacked) return emit_constants(b, starts, x, w, y);
  emit_packing(b, starts, x.rows, w, y);
}

void plan_gemm(NodeBuilder& b) {
  const GemmShape g = gemm_shape(b);
  const Slot y = b.output(0, DType::kFloat32, {g.m, g.n}, gemm_time(b, g));
  const Slot a = plan_left(b, g);
  const Right right = plan_right(b, g);
  const Addend addend = plan_addend(b, g);
  const auto multiply_right = [right, gemm = b.kernels().gemm](const Frame& f, const GemmArgs& p) {
    right.low.used() ? multiply(f, right.low, p) : multiply(f, gemm, p);
  };
  if (g.alpha == 1.0f) {
    b.emit([=](const Frame& f) {
      multiply_right(f, product_of(g.m, f.at<float>(a), g.k, right.at(f), addend.at(f),
                                   addend.stride, f.at<float>(y), g.n));
    });
    return;
  }
  const FunctionSpec scale{Function::kAffine, g.alpha, 0};
  b.emit([=, map = b.kernels().map, combine = b.kernels().combine](const Frame& f) {
    auto* c = f.at<float>(y);
    multiply_right(f, product_of(g.m, f.at<float>(a), g.k, right.at(f), nullptr, 0, c, g.n));
    map(scale, c, c, g.m * g.n);
    for (int64_t i = 0; addend.any && i < g.m; ++i) {
      combine(Binary::kAdd, c + i * g.n, 1, addend.at(f) + i * addend.stride, 1, c + i * g.n, g.n);
    }
  });
}

}  // namespace gruengine
