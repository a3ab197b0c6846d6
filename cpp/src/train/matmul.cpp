// SPDX-License-Identifier: MIT
// Dense products of training, forward and backward.
#include <algorithm>

#include "gruengine/training_math.h"
#include "isa/denormals.h"
#include "isa/dispatch.h"
#include "train/matmul.h"
#include "train/recurrent.h"

namespace gruengine {
namespace {

// Products of fewer multiplications are done before another thread is awake.
constexpr int64_t kWorthThreads = 2'000'000;

void multiply_rows(const Matmul& p, const KernelTable& kernels, const TrainPanels& form,
                   const float* packed, const Team& team) {
  const int64_t first = team.begin(p.m);
  ProductArgs args{};
  args.m = team.end(p.m) - first;
  args.n = p.n;
  args.k = p.k;
  args.runs = 1;
  args.a = p.a + first * p.k;
  args.lda = p.k;
  args.b = packed;
  args.block_stride = form.block_stride();
  args.nv = form.nv();
  args.c = p.c + first * p.n;
  args.ldc = p.n;
  args.c_block = args.init_block = form.columns();
  args.init = p.accumulate ? args.c : p.bias;
  args.ldi = p.accumulate ? p.n : 0;
  if (args.m > 0) kernels.train->product(args);
}

void start_rows(const Matmul& p) {
  for (int64_t i = 0; i < p.m; ++i) {
    if (p.bias != nullptr) {
      copy(p.c + i * p.n, p.bias, p.n);
    } else {
      clear(p.c + i * p.n, p.n);
    }
  }
}

}  // namespace

void matmul(const Matmul& p, int num_threads, ComputeType type) {
  if (p.m == 0 || p.n == 0) return;
  const FlushDenormals flush;
  const KernelTable& table = kernels();
  const int threads = p.m * p.n * p.k < kWorthThreads ? 1 : num_threads;
  const std::optional<LowType> low = training_type(table, type);
  if (low && p.k > 0) return low_matmul(p, table, *low, threads);
  const TrainPanels form{p.k, p.n, table.width};
  const Lease packed(static_cast<size_t>(form.floats()) * sizeof(float));
  const bool adds = p.accumulate || p.bias != nullptr || p.k == 0;
  if (p.a_transposed && adds && !p.accumulate) start_rows(p);
  run_team(threads, [&](Team& team) {
    const int64_t begin = team.begin(form.blocks()), end = team.end(form.blocks());
    if (p.b_transposed) {
      pack_transposed(p.b, form, begin, end, packed.floats());
    } else {
      pack_rows(p.b, p.n, form, begin, end, packed.floats());
    }
    team.barrier();
    if (p.a_transposed) {
      transposed_product(table, p.a, p.m, p.m, packed.floats(), form, adds, p.c, team);
    } else {
      multiply_rows(p, table, form, packed.floats(), team);
    }
  });
}

void sum_rows(const float* x, int64_t rows, int64_t n, bool accumulate, float* sums) {
  const FlushDenormals flush;
  if (!accumulate) std::fill_n(sums, n, 0.0f);
  kernels().train->add_rows(x, rows, n, n, sums);
}

}  // namespace gruengine
