// SPDX-License-Identifier: MIT
// Products in bfloat16 and int8: prepared rows, matrix products and steps on every instruction set.
#include <algorithm>
#include <limits>

#include "check.h"
#include "low_cases.h"

namespace gruengine::test {
namespace {

// -- prepare ----------------------------------------------------------------------------------

void check_prepared_row(const KernelTable& table, const Floats& x, float range) {
  const auto k = static_cast<int64_t>(x.size());
  Guarded from(1, k, 0, x);
  float most = range;
  for (const float value : x) most = std::max(most, std::fabs(value));
  LowPrepared low8(table.low->int8, from, 1, k, range);
  CHECK(low8.scale[0] == most / 127.0f, "%s scale %g of largest %g", table.isa,
        static_cast<double>(low8.scale[0]), static_cast<double>(most));
  LowPrepared low16(table.low->bfloat16, from, 1, k, 0.0f);
  for (int64_t i = 0; i < padded_rows(table.low->int8, k); ++i) {
    const float value = i < k ? x[static_cast<size_t>(i)] : 0.0f;
    const float wanted = most > 0.0f ? std::nearbyint(value * (127.0f / most)) : 0.0f;
    CHECK(low8.value(table.low->int8, 0, i) == wanted, "%s int8 of %g", table.isa,
          static_cast<double>(value));
  }
  for (int64_t i = 0; i < padded_rows(table.low->bfloat16, k); ++i) {
    const float value = i < k ? x[static_cast<size_t>(i)] : 0.0f;
    CHECK(low16.value(table.low->bfloat16, 0, i) == from_bfloat16(bfloat16_bits(value)),
          "%s bfloat16 of %g", table.isa, static_cast<double>(value));
  }
}

void check_prepare(const KernelTable& table) {
  for (const int64_t k : {1, 3, 4, 16, 17, 31, 70}) {
    for (const float range : {0.0f, 1.0f}) {
      check_prepared_row(table, random_floats(k, 3.0f), range);
      check_prepared_row(table, random_floats(k, 0.01f), range);
      check_prepared_row(table, Floats(static_cast<size_t>(k), 0.0f), range);
    }
  }
  const float inf = std::numeric_limits<float>::infinity();
  for (const float bad : {inf, -inf, std::numeric_limits<float>::quiet_NaN()}) {
    for (const size_t at : {size_t{0}, size_t{18}}) {
      Floats x = random_floats(19, 1.0f);
      x[at] = bad;
      Guarded from(1, 19, 0, x);
      LowPrepared low8(table.low->int8, from, 1, 19, 1.0f);
      CHECK(std::isnan(low8.scale[0]), "%s scale of a row with %g", table.isa,
            static_cast<double>(bad));
      LowPrepared low16(table.low->bfloat16, from, 1, 19, 0.0f);
      const float got = low16.value(table.low->bfloat16, 0, static_cast<int64_t>(at));
      CHECK(std::isnan(bad) ? std::isnan(got) : got == bad, "%s bfloat16 of %g", table.isa,
            static_cast<double>(bad));
    }
  }
}

// -- gemm -------------------------------------------------------------------------------------

struct Case {
  int64_t m, n, k;
  int nv;
  bool extreme;  // the largest integers only: pairs of products exceed 16 bits
};

// Weights whose float values are w, or w as integers with scales.
struct Weights {
  Weights(const LowKernels& low, int64_t k, int64_t n, bool extreme)
      : columns(n),
        w(random_floats(k * n, low.scaled ? 127.4f : 1.0f)),
        scale(random_floats(n, 1)) {
    for (float& x : w) {
      if (low.scaled) x = extreme ? (x < -90.0f ? -127.0f : 127.0f) : std::nearbyint(x);
      if (!low.scaled) x = from_bfloat16(bfloat16_bits(x));
    }
  }
  float at(int64_t row, int64_t column) const {
    return w[static_cast<size_t>(row * columns + column)];
  }
  LowPacked packed(const LowKernels& low, int64_t k, int nv, int width) const {
    return {low,
            k,
            columns,
            nv,
            width,
            [this](int64_t i, int64_t j) { return at(i, j); },
            [this](int64_t j) { return scale[static_cast<size_t>(j)]; }};
  }
  int64_t columns;
  Floats w, scale;
};

float expected(const KernelTable& table, const LowKernels& low, float start, LowPrepared& a,
               int64_t row, const Weights& w, int64_t k, int64_t column) {
  const bool fused = table.width > 1;
  const auto add = [&](float x, float y, float to) {
    return fused ? std::fma(x, y, to) : x * y + to;
  };
  if (low.scaled) {
    int64_t sum = 0;
    for (int64_t i = 0; i < k; ++i) {
      sum += static_cast<int64_t>(a.value(low, row, i)) * static_cast<int64_t>(w.at(i, column));
    }
    return add(static_cast<float>(sum),
               a.scale[static_cast<size_t>(row)] * w.scale[static_cast<size_t>(column)], start);
  }
  float c = start;
  for (int64_t i = 0; i < k; ++i) c = add(a.value(low, row, i), w.at(i, column), c);
  return c;
}

// Where products of bfloat16 are made in tiles the chain is the machine's own: equal within a
// tolerance, and the same bits for every number of rows.
bool close(const LowKernels& low, float got, float wanted, int64_t k) {
  if (low.scaled || low.value_bytes == 4) return same_bits(&got, &wanted, 1);
  return std::fabs(got - wanted) <= 1e-6f * static_cast<float>(k + 1);
}

void check_gemm(const KernelTable& table, const LowKernels& low, const Case& s) {
  const Weights w(low, s.k, s.n, s.extreme);
  LowPacked packed = w.packed(low, s.k, s.nv, table.width);
  Floats values = random_floats(s.m * s.k, 1.0f);
  if (s.extreme) std::fill(values.begin(), values.end(), -1.0f);
  Guarded a(s.m, s.k, 3, values);
  LowPrepared rows(low, a, s.m, s.k, 0.0f);
  const int64_t ldi = (s.n + table.width - 1) / table.width * table.width;
  const Floats init = random_floats(s.m * ldi, 1.0f);
  Guarded c(s.m, s.n, 5);
  LowGemmArgs args{
      s.m,         s.n, s.k,      rows.rows(low), packed.data.data(), packed.stride, s.nv,
      init.data(), ldi, c.data(), c.ld()};
  low.gemm(args);
  CHECK(c.intact(), "%s low gemm wrote outside c", table.isa);
  for (int64_t r = 0; r < s.m; ++r) {
    for (int64_t j = 0; j < s.n; ++j) {
      const float wanted =
          expected(table, low, init[static_cast<size_t>(r * ldi + j)], rows, r, w, s.k, j);
      CHECK(close(low, c.row(r)[j], wanted, s.k), "%s %s gemm m=%d n=%d k=%d nv=%d: %g, not %g",
            table.isa, low.scaled ? "int8" : "bfloat16", static_cast<int>(s.m),
            static_cast<int>(s.n), static_cast<int>(s.k), s.nv, static_cast<double>(c.row(r)[j]),
            static_cast<double>(wanted));
    }
    Guarded one(1, s.n, 5);
    LowGemmArgs alone = args;
    alone.m = 1;
    alone.a = {static_cast<const char*>(args.a.data) + r * args.a.stride, args.a.stride,
               low.scaled ? args.a.scale + r : nullptr};
    alone.init = init.data() + r * ldi;
    alone.c = one.data();
    low.gemm(alone);
    CHECK(same_bits(one.data(), c.row(r), s.n), "%s row %d alone differs", table.isa,
          static_cast<int>(r));
  }
}

void check_gemms(const KernelTable& table, const LowKernels& low) {
  const int64_t v = table.width;
  for (const int64_t m : {1, 2, 3, 5, 7, 16, 19, 33}) {
    for (const int nv : {1, 2, 3, 4}) {
      check_gemm(table, low, {m, 2 * nv * v + v / 2 + 1, 13 + 7 * m, nv, false});
    }
  }
  check_gemm(table, low, {4, 9 * v, 1, 4, false});
  check_gemm(table, low, {17, 4 * v, 130, 4, false});
  if (low.scaled) check_gemm(table, low, {3, 2 * v, 257, 4, true});
}

// -- step -------------------------------------------------------------------------------------

struct CellShape {
  StepKind kind;
  int gates;
};

// A step is the products of gemm, row by row, and then the cell of float32.
struct StepCase {
  StepCase(const KernelTable& t, const LowKernels& l, CellShape c, int64_t rows, int64_t inputs,
           int64_t units, bool is_standard)
      : table(t), low(l), cell(c), N(rows), I(inputs), H(units), standard(is_standard) {
    panels = (H + table.width - 1) / table.width;
    columns = panels * cell.gates * table.width;
    params.f = {Function::kSigmoid, 0, 0};
    params.g = {standard ? Function::kTanh : Function::kRelu, 0, 0};
    params.h = {Function::kTanh, 0, 0};
    params.standard = standard;
  }

  StepArgs cell_args(Guarded& h, Guarded& c, Guarded& c_out, Guarded& h_out, Guarded& gate) {
    StepArgs args{};
    args.rows = N;
    args.panel_end = panels;
    args.hidden = H;
    args.h = h.data();
    args.ldh = h.ld();
    args.peephole = peephole.data();
    args.c = c.data();
    args.ldc = c.ld();
    args.c_out = c_out.data();
    args.ldc_out = c_out.ld();
    args.h_out = h_out.data();
    args.ldh_out = h_out.ld();
    args.gate = gate.data();
    args.ldg = gate.ld();
    args.params = &params;
    return args;
  }

  void check();

  const KernelTable& table;
  const LowKernels& low;
  CellShape cell;
  int64_t N, I, H, panels, columns;
  bool standard;
  CellParams params{};
  Floats peephole;
};

void StepCase::check() {
  const int64_t v = table.width, wide = cell.gates * v;
  peephole = random_floats(panels * 3 * v, 0.5f);
  const Weights w(low, I, columns, false), r(low, H, columns, false);
  LowPacked x_blocks = w.packed(low, I, cell.gates, static_cast<int>(v));
  LowPacked h_blocks = r.packed(low, H, cell.gates, static_cast<int>(v));
  const int64_t stride = x_blocks.stride + h_blocks.stride;
  Aligned both(panels * stride / 4);
  for (int64_t p = 0; p < panels; ++p) {
    char* to = reinterpret_cast<char*>(both.data()) + p * stride;
    std::memcpy(to, reinterpret_cast<char*>(x_blocks.data.data()) + p * x_blocks.stride,
                static_cast<size_t>(x_blocks.stride));
    std::memcpy(to + x_blocks.stride,
                reinterpret_cast<char*>(h_blocks.data.data()) + p * h_blocks.stride,
                static_cast<size_t>(h_blocks.stride));
  }
  // Integer weights are large: small inputs keep the gates off their ends.
  const float size = low.scaled ? 0.01f : 1.0f;
  Guarded x(N, I, 2, random_floats(N * I, size)), h(N, H, 3, random_floats(N * H, size));
  Guarded c(N, H, 1, random_floats(N * H, 1.0f));
  LowPrepared xs(low, x, N, I, 0.0f), hs(low, h, N, H, 0.0f);
  Aligned bias(columns), bias_h(panels * v);
  for (int64_t i = 0; i < columns; ++i) bias[i] = random_floats(1, 1.0f)[0];
  for (int64_t i = 0; i < panels * v; ++i) bias_h[i] = random_floats(1, 1.0f)[0];
  const Floats gates = random_floats(N * H, 1.0f);
  Guarded c_out(N, H, 0), h_out(N, H, 4), gate(N, H, 2, gates);
  Guarded c_want(N, H, 0), h_want(N, H, 4), gate_want(N, H, 2, gates);

  LowStepArgs args{cell_args(h, c, c_out, h_out, gate), xs.rows(low), hs.rows(low), both.data(),
                   stride};
  args.cell.input = I;
  args.cell.recurrent = H;
  args.cell.z = bias.data();
  args.cell.bias_h = bias_h.data();
  low.step[static_cast<int>(cell.kind)](args);

  // Row by row: the sums of gemm, then a step without products. GruAfter keeps the sum of its
  // candidate with h apart.
  Aligned zx(N * columns), zh(N * columns), apart(columns);
  LowGemmArgs product{N,          columns,     I, xs.rows(low), both.data(), stride,
                      cell.gates, bias.data(), 0, zx.data(),    columns};
  low.gemm(product);
  product.k = H;
  product.a = hs.rows(low);
  product.b = reinterpret_cast<char*>(both.data()) + x_blocks.stride;
  product.init = zx.data();
  product.ldi = columns;
  product.c = zh.data();
  const bool after = cell.kind == StepKind::kGruAfter;
  if (after) {
    for (int64_t n = 0; n < N; ++n) {
      for (int64_t j = 0; j < columns; ++j) {
        const bool last = j % wide >= 2 * v;
        zh[n * columns + j] = last ? bias_h[j / wide * v + j % v] : zx[n * columns + j];
      }
    }
    product.init = zh.data();
  }
  low.gemm(product);
  StepArgs plain = cell_args(h, c, c_want, h_want, gate_want);
  for (int64_t n = 0; n < N; ++n) {
    StepArgs one = plain;
    one.rows = 1;
    one.h += n * one.ldh;
    one.c += n * one.ldc;
    one.c_out += n * one.ldc_out;
    one.h_out += n * one.ldh_out;
    one.gate += n * one.ldg;
    for (int64_t j = 0; after && j < columns; ++j) {
      if (j % wide < 2 * v) continue;
      apart[j / wide * v + j % v] = zh[n * columns + j];
      zh[n * columns + j] = zx[n * columns + j];
    }
    one.bias_h = apart.data();
    one.z = zh.data() + n * columns;
    one.ldz = columns;
    table.step[static_cast<int>(cell.kind)](one);
    const char* type = low.scaled ? "int8" : "bfloat16";
    CHECK(same_bits(h_out.row(n), h_want.row(n), H), "%s %s step %d: h of row %d of %d", table.isa,
          type, static_cast<int>(cell.kind), static_cast<int>(n), static_cast<int>(N));
    CHECK(same_bits(c_out.row(n), c_want.row(n), H), "%s %s step %d: c of row %d of %d", table.isa,
          type, static_cast<int>(cell.kind), static_cast<int>(n), static_cast<int>(N));
    CHECK(same_bits(gate.row(n), gate_want.row(n), H), "%s %s step %d: gate of row %d", table.isa,
          type, static_cast<int>(cell.kind), static_cast<int>(n));
  }
  CHECK(h_out.intact() && c_out.intact() && gate.intact(), "%s wrote outside its rows", table.isa);
}

void check_steps(const KernelTable& table, const LowKernels& low) {
  const CellShape cells[] = {{StepKind::kRnn, 1},
                             {StepKind::kLstm, 4},
                             {StepKind::kGruAfter, 3},
                             {StepKind::kGruBeforeGates, 2},
                             {StepKind::kGruBeforeUpdate, 1}};
  for (const CellShape& cell : cells) {
    for (const int64_t rows : {1, 2, 3, 6, 17}) {
      for (const bool standard : {true, false}) {
        StepCase(table, low, cell, rows, 5 + rows, 2 * table.width + 3, standard).check();
      }
    }
    StepCase(table, low, cell, 1, 40, 5 * table.width, true).check();
  }
}

// Tiles take rows in blocks of 16 and leave small products to vectors: the same bits on both sides
// of every border.
void check_tiles(const KernelTable& table, const LowKernels& low) {
  if (low.multiple <= low.group) return;
  for (int64_t m = 1; m <= 70; ++m) {
    check_gemm(table, low, {m, 64 + m, 1 + 5 * (m % 23), 1 + static_cast<int>(m % 4), false});
    StepCase(table, low, {StepKind::kLstm, 4}, m, 1 + m % 70, 33 + m % 16, m % 8 != 0).check();
  }
  const CellShape cells[] = {{StepKind::kRnn, 1},
                             {StepKind::kGruAfter, 3},
                             {StepKind::kGruBeforeGates, 2},
                             {StepKind::kGruBeforeUpdate, 1}};
  for (const CellShape& cell : cells) {
    for (const int64_t rows : {1, 4, 15, 16, 17, 31, 33, 49}) {
      StepCase(table, low, cell, rows, 3 * rows, 75, rows != 15).check();
    }
  }
  // Long products: rows are finished while the next panel is multiplied.
  for (const int64_t rows : {1, 9, 16, 32, 47}) {
    StepCase(table, low, {StepKind::kLstm, 4}, rows, 300, 520, true).check();
    StepCase(table, low, {StepKind::kGruAfter, 3}, rows, 300, 520, rows != 9).check();
  }
}

void run() {
  for_each_isa([](const KernelTable& table) {
    check_prepare(table);
    for (const LowKernels* low : {&table.low->bfloat16, &table.low->int8}) {
      check_gemms(table, *low);
      check_steps(table, *low);
      check_tiles(table, *low);
    }
  });
}

}  // namespace
}  // namespace gruengine::test

int main() {
  gruengine::test::run();
  return REPORT();
}
