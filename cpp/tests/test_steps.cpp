// SPDX-License-Identifier: MIT
// The recurrent kernels against float64, and their promise of one number: bit by bit the same for
// one row and many, for products fused and taken before, for all panels at once and a few.
#include <algorithm>
#include <cmath>
#include <string>

#include "check.h"
#include "kernel_cases.h"

namespace gruengine::test {
namespace {

using Doubles = std::vector<double>;

int gates_of(StepKind kind) {
  switch (kind) {
    case StepKind::kLstm:
      return 4;
    case StepKind::kGruAfter:
      return 3;
    case StepKind::kGruBeforeGates:
      return 2;
    default:
      return 1;
  }
}

struct Shape {
  StepKind kind;
  int64_t rows, input, recurrent, hidden;
  CellParams params;
  bool peephole;
  bool per_row_z;
};

CellParams standard_params() {
  CellParams p = {};
  p.f = {Function::kSigmoid, 0.0f, 0.0f};
  p.g = {Function::kTanh, 0.0f, 0.0f};
  p.h = {Function::kTanh, 0.0f, 0.0f};
  p.standard = true;
  return p;
}

double activation(const FunctionSpec& s, double x) {
  switch (s.kind) {
    case Function::kSigmoid:
      return 1.0 / (1.0 + std::exp(-x));
    case Function::kTanh:
      return std::tanh(x);
    case Function::kRelu:
      return std::max(0.0, x);
    case Function::kHardSigmoid:
      return std::clamp(s.alpha * x + s.beta, 0.0, 1.0);
    case Function::kSoftsign:
      return x / (1.0 + std::fabs(x));
    default:
      return NAN;
  }
}

// One random layer in every form a step needs it.
struct Layer {
  Layer(const KernelTable& table, const Shape& s)
      : shape(s),
        v(table.width),
        gates(gates_of(s.kind)),
        panels((s.hidden + v - 1) / v),
        columns(panels * gates * v),
        rows_in(s.input + s.recurrent),
        weights(random_floats(rows_in * gates * s.hidden, 0.3f)),
        stride(rows_in * gates * v + 64),
        packed(panels * stride),
        z((s.per_row_z ? s.rows : 1) * columns),
        bias_h(panels * v),
        peephole(panels * 3 * v),
        x(s.rows, s.input, 1, random_floats(s.rows * s.input, 1.0f)),
        h(s.rows, s.recurrent, 2, random_floats(s.rows * s.recurrent, 1.0f)),
        c(s.rows, s.hidden, 3, random_floats(s.rows * s.hidden, 1.5f)),
        gate(s.rows, s.hidden, 1, random_floats(s.rows * s.hidden, 1.0f)) {
    for (int64_t u = 0; u < s.hidden; ++u) {
      for (int g = 0; g < gates; ++g) {
        for (int64_t i = 0; i < rows_in; ++i) {
          packed[u / v * stride + (i * gates + g) * v + u % v] = weight(i, g, u);
        }
      }
    }
    fill(z, 0.5f);
    fill(bias_h, 0.5f);
    fill(peephole, 0.5f);
  }

  static void fill(Aligned& a, float range) {
    const Floats r = random_floats(a.size(), range);
    std::copy(r.begin(), r.end(), a.data());
  }
  float weight(int64_t i, int g, int64_t u) const {
    return weights[static_cast<size_t>((i * gates + g) * shape.hidden + u)];
  }
  float z_of(int64_t row, int g, int64_t u) {
    return z[(shape.per_row_z ? row : 0) * columns + (u / v * gates + g) * v + u % v];
  }
  float peephole_of(int which, int64_t u) { return peephole[(u / v * 3 + which) * v + u % v]; }

  StepArgs args(Guarded& h_out, Guarded& c_out) {
    StepArgs a = {};
    a.rows = shape.rows;
    a.panel_end = panels;
    a.hidden = shape.hidden;
    a.input = shape.input;
    a.recurrent = shape.recurrent;
    a.x = x.data();
    a.ldx = x.ld();
    a.h = h.data();
    a.ldh = h.ld();
    a.w = packed.data();
    a.panel_stride = stride;
    a.z = z.data();
    a.ldz = shape.per_row_z ? columns : 0;
    a.bias_h = bias_h.data();
    a.peephole = shape.peephole ? peephole.data() : nullptr;
    a.c = c.data();
    a.ldc = c.ld();
    a.c_out = c_out.data();
    a.ldc_out = c_out.ld();
    a.h_out = h_out.data();
    a.ldh_out = h_out.ld();
    a.gate = gate.data();
    a.ldg = gate.ld();
    a.params = &shape.params;
    return a;
  }

  Shape shape;
  int64_t v;
  int gates;
  int64_t panels, columns, rows_in;
  Floats weights;
  int64_t stride;
  Aligned packed, z, bias_h, peephole;
  Guarded x, h, c, gate;
};

struct Outputs {
  double h, c, gate;
};

Outputs oracle(Layer& l, int64_t row, int64_t u) {
  const CellParams& p = l.shape.params;
  const auto product = [&](int g, bool with_x, bool with_h) {
    double sum = 0.0;
    for (int64_t i = 0; with_x && i < l.shape.input; ++i) {
      sum += double{l.x.row(row)[i]} * l.weight(i, g, u);
    }
    for (int64_t i = 0; with_h && i < l.shape.recurrent; ++i) {
      sum += double{l.h.row(row)[i]} * l.weight(l.shape.input + i, g, u);
    }
    return sum;
  };
  const auto clip = [&](double x) {
    return p.clip == 0.0f ? x : std::clamp(x, -double{p.clip}, double{p.clip});
  };
  const auto f = [&](double x) { return activation(p.f, clip(x)); };
  const auto g = [&](double x) { return activation(p.g, clip(x)); };
  const auto pre = [&](int gate) { return l.z_of(row, gate, u) + product(gate, true, true); };
  const double c = l.c.row(row)[u];
  const auto update = [&](double z, double n, double h) {
    return p.update_takes ? (1 - z) * h + z * n : (1 - z) * n + z * h;
  };
  switch (l.shape.kind) {
    case StepKind::kRnn:
      return {g(pre(0)), 0, 0};
    case StepKind::kLstm: {
      const bool peep = l.shape.peephole;
      const double i = f(pre(0) + (peep ? l.peephole_of(0, u) * c : 0));
      const double forget = p.coupled ? 1 - i : f(pre(2) + (peep ? l.peephole_of(2, u) * c : 0));
      const double cell = forget * c + i * g(pre(3));
      const double o = f(pre(1) + (peep ? l.peephole_of(1, u) * cell : 0));
      return {o * activation(p.h, cell), cell, 0};
    }
    case StepKind::kGruAfter: {
      const double hn = l.bias_h[u] + product(2, false, true);
      const double n = g(l.z_of(row, 2, u) + product(2, true, false) + f(pre(1)) * hn);
      return {update(f(pre(0)), n, l.h.row(row)[u]), 0, 0};
    }
    case StepKind::kGruBeforeGates:
      return {f(pre(1)) * l.h.row(row)[u], 0, f(pre(0))};
    default:
      return {update(l.gate.row(row)[u], g(pre(0)), c), 0, l.gate.row(row)[u]};
  }
}

std::string describe(const KernelTable& table, const Shape& s) {
  const char* names[] = {"Rnn", "Lstm", "GruAfter", "GruBeforeGates", "GruBeforeUpdate"};
  return std::string(table.isa) + " " + names[static_cast<int>(s.kind)] +
         " N=" + std::to_string(s.rows) + " I=" + std::to_string(s.input) +
         " K=" + std::to_string(s.recurrent) + " H=" + std::to_string(s.hidden) +
         (s.params.standard ? "" : " general") + (s.peephole ? " peephole" : "") +
         (s.per_row_z ? " z" : "");
}

struct Results {
  explicit Results(const Shape& s) : h(s.rows, s.hidden, 1), c(s.rows, s.hidden, 4) {}
  Guarded h, c;
};

bool same(const Shape& s, Results& a, Results& b) {
  for (int64_t r = 0; r < s.rows; ++r) {
    if (!same_bits(a.h.row(r), b.h.row(r), s.hidden)) return false;
    if (!same_bits(a.c.row(r), b.c.row(r), s.hidden)) return false;
  }
  return true;
}

void check_oracle(const KernelTable& table, Layer& l, Results& got, const std::string& what) {
  const double tolerance = 4e-6 + 1e-7 * static_cast<double>(l.rows_in);
  const StepKind kind = l.shape.kind;
  for (int64_t r = 0; r < l.shape.rows; ++r) {
    for (int64_t u = 0; u < l.shape.hidden; ++u) {
      const Outputs want = oracle(l, r, u);
      const double h = got.h.row(r)[u];
      CHECK(std::fabs(h - want.h) <= tolerance, "%s h[%d][%d] %.9g, not %.9g", what.c_str(),
            static_cast<int>(r), static_cast<int>(u), h, want.h);
      if (kind == StepKind::kLstm) {
        CHECK(std::fabs(got.c.row(r)[u] - want.c) <= tolerance, "%s c[%d][%d]", what.c_str(),
              static_cast<int>(r), static_cast<int>(u));
      }
      if (kind == StepKind::kGruBeforeGates) {
        CHECK(std::fabs(l.gate.row(r)[u] - want.gate) <= tolerance, "%s gate", what.c_str());
      }
    }
  }
  static_cast<void>(table);
}

void check_one_number(const KernelTable& table, Layer& l, Results& all, const std::string& what) {
  const Shape& s = l.shape;
  const auto run = table.step[static_cast<int>(s.kind)];
  Floats gate;
  for (int64_t r = 0; r < s.rows; ++r) {
    gate.insert(gate.end(), l.gate.row(r), l.gate.row(r) + s.hidden);
  }
  Results rows(s);
  for (int64_t r = 0; r < s.rows; ++r) {
    StepArgs a = l.args(rows.h, rows.c);
    a.rows = 1;
    a.x = l.x.row(r);
    a.h = l.h.row(r);
    a.z += r * a.ldz;
    a.c = l.c.row(r);
    a.c_out = rows.c.row(r);
    a.h_out = rows.h.row(r);
    a.gate = l.gate.row(r);
    run(a);
  }
  CHECK(same(s, all, rows), "%s: rows one by one differ", what.c_str());

  Results parts(s);
  for (int64_t p = 0; p < l.panels;) {
    StepArgs a = l.args(parts.h, parts.c);
    a.panel_begin = p;
    p = std::min(l.panels, p + 1 + p % 3);
    a.panel_end = p;
    run(a);
  }
  CHECK(same(s, all, parts), "%s: panels in parts differ", what.c_str());

  Results backwards(s);
  StepArgs b = l.args(backwards.h, backwards.c);
  b.backwards = true;
  run(b);
  CHECK(same(s, all, backwards), "%s: panels backwards differ", what.c_str());

  // The products with x first, as a sequence takes them.
  Aligned z(s.rows * l.columns);
  GemmArgs g = {};
  g.m = s.rows;
  g.n = l.columns;
  g.k = s.input;
  g.a = l.x.data();
  g.lda = l.x.ld();
  g.b = l.packed.data();
  g.block_stride = l.stride;
  g.nv = l.gates;
  g.init = l.z.data();
  g.ldi = s.per_row_z ? l.columns : 0;
  g.c = z.data();
  g.ldc = l.columns;
  table.gemm(g);
  Results hoisted(s);
  StepArgs a = l.args(hoisted.h, hoisted.c);
  a.input = 0;
  a.x = nullptr;
  a.w += s.input * l.gates * l.v;
  a.z = z.data();
  a.ldz = l.columns;
  run(a);
  CHECK(same(s, all, hoisted), "%s: products taken before differ", what.c_str());
  for (int64_t r = 0; r < s.rows; ++r) {
    CHECK(same_bits(l.gate.row(r), gate.data() + r * s.hidden, s.hidden), "%s: gate differs",
          what.c_str());
  }
}

void check_shape(const KernelTable& table, const Shape& s) {
  const std::string what = describe(table, s);
  Layer l(table, s);
  const auto run = table.step[static_cast<int>(s.kind)];
  Results all(s);
  run(l.args(all.h, all.c));
  CHECK(all.h.intact() && all.c.intact() && l.gate.intact(), "%s wrote outside", what.c_str());
  check_oracle(table, l, all, what);
  check_one_number(table, l, all, what);
  if (s.kind == StepKind::kLstm) {
    Results in_place(s);
    StepArgs a = l.args(in_place.h, in_place.c);
    a.c_out = l.c.data();
    a.ldc_out = l.c.ld();
    run(a);
    for (int64_t r = 0; r < s.rows; ++r) {
      CHECK(same_bits(all.h.row(r), in_place.h.row(r), s.hidden) &&
                same_bits(all.c.row(r), l.c.row(r), s.hidden),
            "%s: c in place differs", what.c_str());
    }
    CHECK(l.c.intact(), "%s wrote outside c", what.c_str());
  }
}

std::vector<CellParams> param_sets(StepKind kind) {
  std::vector<CellParams> sets(6, standard_params());
  for (size_t i = 1; i < sets.size(); ++i) sets[i].standard = false;
  sets[2].clip = 0.4f;
  sets[3].f = {Function::kHardSigmoid, 0.2f, 0.5f};
  sets[3].g = {Function::kSoftsign, 0.0f, 0.0f};
  sets[3].h = {Function::kRelu, 0.0f, 0.0f};
  sets[4].coupled = kind == StepKind::kLstm;
  sets[5] = standard_params();
  sets[5].update_takes = true;
  return sets;
}

void check_isa(const KernelTable& table) {
  const int64_t v = table.width;
  for (int kind = 0; kind < static_cast<int>(StepKind::kCount); ++kind) {
    const StepKind k = static_cast<StepKind>(kind);
    const std::vector<CellParams> sets = param_sets(k);
    int turn = 0;
    for (const int64_t hidden : {int64_t{1}, v - 1, v, v + 1, 2 * v + 3, 3 * v, 17 * v + 1}) {
      if (hidden < 1) continue;
      for (const int64_t rows : {1, 2, 3, 5, 6, 7, 8, 13, 16}) {
        for (const int64_t input : {0, 1, 10}) {
          const size_t which = static_cast<size_t>(turn++) % (sets.size() + 3);
          const CellParams& p = sets[which < sets.size() ? which : 0];
          const bool projected = k == StepKind::kLstm || k == StepKind::kRnn;
          const int64_t recurrent = projected && turn % 4 == 0 ? hidden + 2 : hidden;
          check_shape(table, {k, rows, input, recurrent, hidden, p, turn % 3 == 0, turn % 2 == 0});
        }
      }
    }
  }
}

// The general path with the standard functions gives the bits of the fast one.
void check_paths(const KernelTable& table) {
  for (int kind = 0; kind < static_cast<int>(StepKind::kCount); ++kind) {
    Shape s = {static_cast<StepKind>(kind), 7, 5, 21, 21, standard_params(), true, true};
    Layer l(table, s);
    Results fast(s);
    Results general(s);
    table.step[kind](l.args(fast.h, fast.c));
    StepArgs a = l.args(general.h, general.c);
    CellParams p = standard_params();
    p.standard = false;
    a.params = &p;
    table.step[kind](a);
    CHECK(same(s, fast, general), "%s: general path differs", describe(table, s).c_str());
  }
}

}  // namespace
}  // namespace gruengine::test

int main() {
  gruengine::test::for_each_isa([](const gruengine::KernelTable& table) {
    gruengine::test::check_isa(table);
    gruengine::test::check_paths(table);
  });
  return REPORT();
}
