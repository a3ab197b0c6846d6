// SPDX-License-Identifier: MIT
// Dense products of training in bfloat16.
#include "train/low_pack.h"
#include "train/matmul.h"

namespace gruengine {
namespace {

// Columns [first, first + count) of a [k, m] become prepared rows, a few at a time.
void prepare_columns(const Matmul& p, int64_t first, int64_t count, const LowOperand& to) {
  constexpr int64_t kTile = 16;
  const Lease turned(static_cast<size_t>(kTile * p.k) * sizeof(float));
  for (int64_t low = first; low < first + count; low += kTile) {
    const int64_t n = std::min(kTile, first + count - low);
    for (int64_t i = 0; i < p.k; ++i) {
      for (int64_t j = 0; j < n; ++j) turned.floats()[j * p.k + i] = p.a[i * p.m + low + j];
    }
    to.prepare(turned.floats(), p.k, low, n);
  }
}

void pack_operand(const Matmul& p, const LowForm& form, const Team& team, char* to) {
  const int64_t begin = team.begin(form.blocks()), end = team.end(form.blocks());
  if (!p.b_transposed) {
    return pack_low_rows(form, begin, end, [&](int64_t i) { return p.b + i * p.n; }, to);
  }
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * form.columns();
    const auto column = [&](int64_t c) {
      return first + c < p.n ? p.b + (first + c) * p.k : nullptr;
    };
    pack_low_columns(*form.low, p.k, form.whole(block), column, to + block * form.stride());
  }
}

}  // namespace

void low_matmul(const Matmul& p, const KernelTable& table, const LowType& low, int threads) {
  const LowForm form{{p.k, p.n, table.width}, &low};
  const LowOperand a(low, p.m, p.k);
  const Lease b(static_cast<size_t>(form.bytes()));
  run_team(threads, [&](Team& team) {
    const int64_t first = team.begin(p.m), count = team.end(p.m) - first;
    pack_operand(p, form, team, b.bytes());
    if (p.a_transposed) {
      prepare_columns(p, first, count, a);
    } else {
      a.prepare(p.a + first * p.k, p.k, first, count);
    }
    team.barrier();
    LowGemmArgs args{};
    args.m = count;
    args.n = p.n;
    args.k = p.k;
    args.a = a.rows(first);
    args.b = b.bytes();
    args.block_stride = form.stride();
    args.nv = form.nv();
    args.c = p.c + first * p.n;
    args.ldc = p.n;
    args.init = p.accumulate ? args.c : p.bias;
    args.ldi = p.accumulate ? p.n : 0;
    if (count > 0) low.gemm(args);
  });
}

}  // namespace gruengine
