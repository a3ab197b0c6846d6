// SPDX-License-Identifier: MIT
// Products in int4 on every instruction set, against the same sums made one by one.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "check.h"
#include "low_cases.h"

namespace gruengine::test {
namespace {

constexpr int64_t kSection = 32;

// A matrix [k, n] of integers with a scale for each column of each section, packed.
struct Int4Matrix {
  Int4Matrix(const LowKernels& low, int64_t k, int64_t n, int nv, int width)
      : n(n),
        q(random_floats(k * n, 7.4f)),
        scale(random_floats((k + kSection - 1) / kSection * n, 1.0f)),
        stride(block_bytes(low, k, int64_t{nv} * width)),
        data((n + nv * width - 1) / (nv * width) * stride / 4 + 1) {
    for (float& x : q) x = std::nearbyint(x);
    for (float& x : scale) x = from_bfloat16(bfloat16_bits(std::fabs(x)));
    const int64_t vectors = (n + width - 1) / width, sections = (k + kSection - 1) / kSection;
    for (int64_t first = 0; first < vectors; first += nv) {
      const int64_t columns = std::min<int64_t>(nv, vectors - first) * width;
      auto* block = reinterpret_cast<uint8_t*>(data.data()) + first / nv * stride;
      for (int64_t c = 0; c < columns; ++c) {
        const int64_t column = first * width + c;
        if (column >= n) continue;
        for (int64_t s = 0; s < sections; ++s) {
          const uint16_t bits = bfloat16_bits(scale[static_cast<size_t>(s * n + column)]);
          std::memcpy(block + (s * columns + c) * 2, &bits, 2);
        }
        for (int64_t i = 0; i < k; ++i) {
          uint8_t& at = block[sections * columns * 2 + (i / 8 * columns + c) * 4 + i % 4];
          const int value = static_cast<int>(q[static_cast<size_t>(i * n + column)]) + 8;
          at = static_cast<uint8_t>(at | value << (i % 8 / 4 * 4));
        }
      }
    }
  }
  int64_t n;
  Floats q, scale;
  int64_t stride;
  Aligned data;
};

void check_product(const KernelTable& table, int64_t m, int64_t n, int64_t k, int nv) {
  const LowKernels& low = table.low->int4;
  Int4Matrix b(low, k, n, nv, table.width);
  Guarded from(m, k, 3, random_floats(m * k, 3.0f));
  LowPrepared a(low, from, m, k, 0.0f);
  Guarded init(m, n, 2, random_floats(m * n, 1.0f)), c(m, n, 5);
  LowGemmArgs args{};
  args.m = m;
  args.n = n;
  args.k = k;
  args.a = a.rows(low);
  args.b = b.data.data();
  args.block_stride = b.stride;
  args.nv = nv;
  args.init = init.data();
  args.ldi = init.ld();
  args.c = c.data();
  args.ldc = c.ld();
  low.gemm(args);
  CHECK(c.intact(), "%s int4 writes beyond its matrix", table.isa);
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t j = 0; j < n; ++j) {
      float want = init.row(r)[j];
      for (int64_t s = 0; s * kSection < k; ++s) {
        float sum = 0.0f;  // of integers: exact
        for (int64_t i = s * kSection; i < std::min(k, (s + 1) * kSection); ++i) {
          sum += a.value(low, r, i) * b.q[static_cast<size_t>(i * n + j)];
        }
        const float scale =
            a.scale[static_cast<size_t>(r)] * b.scale[static_cast<size_t>(s * n + j)];
        want = std::fma(sum, scale, want);
      }
      // The baseline has no fused multiply-add.
      const float most = std::strcmp(table.isa, "scalar") == 0 ? 1e-5f * (1 + std::fabs(want)) : 0;
      CHECK(std::fabs(c.row(r)[j] - want) <= most,
            "%s int4 [%ld,%ld] of %ld x %ld x %ld in %d: %g, not %g", table.isa,
            static_cast<long>(r), static_cast<long>(j), static_cast<long>(m), static_cast<long>(n),
            static_cast<long>(k), nv, static_cast<double>(c.row(r)[j]), static_cast<double>(want));
    }
  }
}

}  // namespace
}  // namespace gruengine::test

int main() {
  using namespace gruengine;
  for (const IsaInfo& isa : isa_list()) {
    if (!isa.supported) continue;
    for (const int64_t m : {1, 2, 5}) {
      for (const int64_t n : {1, 5, 17, 70}) {
        for (const int64_t k : {1, 31, 32, 70, 96}) {
          for (const int nv : {1, 2, 3, 4}) test::check_product(*isa.table, m, n, k, nv);
        }
      }
    }
  }
  return REPORT();
}
