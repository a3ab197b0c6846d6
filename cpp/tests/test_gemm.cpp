// SPDX-License-Identifier: MIT
// gemm against the chain it promises: bit by bit, for all shapes of tiles, tails and strides.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "check.h"
#include "kernel_cases.h"

namespace gruengine::test {
namespace {

enum class Init { kNone, kOneRow, kRows, kInPlace };

struct Case {
  int64_t m, n, k;
  int nv;
  Init init;
};

// The chain of one output; the scalar set rounds product and sum apart.
float chain(const KernelTable& table, float start, const float* a, const Floats& b, int64_t n,
            int64_t k, int64_t column) {
  const bool fused = table.width > 1;
  float c = start;
  for (int64_t i = 0; i < k; ++i) {
    const float w = b[static_cast<size_t>(i * n + column)];
    c = fused ? std::fma(a[i], w, c) : a[i] * w + c;
  }
  return c;
}

void check_case(const KernelTable& table, const Case& s) {
  const int64_t padded = (s.n + table.width - 1) / table.width * table.width;
  const Floats b = random_floats(s.k * s.n, 1.0f);
  Guarded a(s.m, s.k, 3, random_floats(s.m * s.k, 1.0f));
  Guarded c(s.m, s.n, 5, random_floats(s.m * s.n, 1.0f));
  Packed packed(b, s.k, s.n, s.nv, table.width);
  Floats init = random_floats(s.m * padded, 1.0f);

  GemmArgs args = {};
  args.m = s.m;
  args.n = s.n;
  args.k = s.k;
  args.a = a.data();
  args.lda = a.ld();
  args.b = packed.data.data();
  args.block_stride = packed.stride;
  args.nv = s.nv;
  args.c = c.data();
  args.ldc = c.ld();
  if (s.init == Init::kInPlace) {
    args.init = c.data();
    args.ldi = c.ld();
  } else if (s.init != Init::kNone) {
    args.init = init.data();
    args.ldi = s.init == Init::kRows ? padded : 0;
  }
  Floats expected(static_cast<size_t>(s.m * s.n));
  for (int64_t r = 0; r < s.m; ++r) {
    for (int64_t j = 0; j < s.n; ++j) {
      const float start = args.init != nullptr ? args.init[r * args.ldi + j] : 0.0f;
      expected[static_cast<size_t>(r * s.n + j)] = chain(table, start, a.row(r), b, s.n, s.k, j);
    }
  }
  table.gemm(args);
  for (int64_t r = 0; r < s.m; ++r) {
    CHECK(same_bits(c.row(r), expected.data() + r * s.n, s.n),
          "%s gemm m=%d n=%d k=%d nv=%d init=%d row %d", table.isa, static_cast<int>(s.m),
          static_cast<int>(s.n), static_cast<int>(s.k), s.nv, static_cast<int>(s.init),
          static_cast<int>(r));
  }
  CHECK(c.intact(), "%s gemm wrote outside c: m=%d n=%d nv=%d", table.isa, static_cast<int>(s.m),
        static_cast<int>(s.n), s.nv);
}

void check_isa(const KernelTable& table) {
  const int64_t v = table.width;
  const Init inits[] = {Init::kNone, Init::kOneRow, Init::kRows, Init::kInPlace};
  int turn = 0;
  for (int nv = 1; nv <= 4; ++nv) {
    std::vector<int64_t> columns = {
        1,          v - 1,      v,          v + 1,          2 * v + 3,         nv * v,
        nv * v + 1, 2 * nv * v, 5 * nv * v, 8 * nv * v - 1, 9 * nv * v + v + 1};
    std::sort(columns.begin(), columns.end());
    columns.erase(std::unique(columns.begin(), columns.end()), columns.end());
    for (const int64_t n : columns) {
      if (n < 1) continue;
      for (const int64_t m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 25}) {
        for (const int64_t k : {0, 1, 7, 34}) {
          check_case(table, {m, n, k, nv, inits[turn++ % 4]});
        }
      }
    }
    // Sizes that are cut into blocks of rows, columns and k.
    for (const Init init : inits) {
      check_case(table, {1, 3 * v + 2, 1500, nv, init});
      check_case(table, {67, 6 * v + 1, 700, nv, init});
    }
    check_case(table, {40, 70 * v, 300, nv, Init::kOneRow});
  }
}

}  // namespace
}  // namespace gruengine::test

int main() {
  gruengine::test::for_each_isa(gruengine::test::check_isa);
  return REPORT();
}
