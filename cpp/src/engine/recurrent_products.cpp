// SPDX-License-Identifier: MIT
// The products of the recurrent node, in float32 or below: one part of them.
#include <algorithm>

#include "engine/recurrent.h"

namespace gruengine {
namespace {

GemmArgs float_product(const PackedMatrix& p, int64_t begin, int64_t end, int64_t width,
                       GemmArgs args = {}) {
  const int64_t block = p.nv * width;
  args.n = std::min(p.n, end * block) - begin * block;
  args.k = p.k;
  args.b = p.data + begin * p.block_stride;
  args.block_stride = p.block_stride;
  args.nv = p.nv;
  return args;
}

LowGemmArgs low_product(const LowMatrix& p, int64_t begin, int64_t end, int64_t width) {
  const int64_t block = p.nv * width;
  LowGemmArgs args{};
  args.n = std::min(p.n, end * block) - begin * block;
  args.k = p.k;
  args.b = p.data + begin * p.block_stride;
  args.block_stride = p.block_stride;
  args.nv = p.nv;
  return args;
}

}  // namespace

// The products of the inputs of `steps` steps from `first`, for the panels of a part.
void RecurrentPlan::project_inputs(const Sequence& s, int64_t first, int64_t steps,
                                   const Team& team, int part) const {
  const int64_t begin = team.begin(panels, part), end = team.end(panels, part);
  if (begin == end) return;
  const int64_t width = kernels->width;
  const float* x_at = s.x + first * N * I;
  LowRows prepared_x{};
  if (low != nullptr) prepared_x = rows_x.prepare(x_at, I, steps * N, member(s, team));
  float* z_at = s.z;
  for (const CellPhase& phase : s.direction->phases) {
    const int64_t vector = phase.gates * width, columns = panels * vector;
    const float* init = phase.bias + begin * vector;
    float* c = z_at + begin * vector;
    if (low != nullptr) {
      LowGemmArgs args = low_product(phase.low, begin, end, width);
      args.m = steps * N;
      args.k = I;
      args.terms = low->terms;
      args.a = prepared_x;
      args.init = init;
      args.c = c;
      args.ldc = columns;
      low->gemm(args);
    } else {
      GemmArgs args = float_product(phase.w, begin, end, width);
      args.m = steps * N;
      args.k = I;
      args.a = x_at;
      args.lda = I;
      args.init = init;
      args.c = c;
      args.ldc = columns;
      kernels->gemm(args);
    }
    z_at += chunk_steps * N * columns;
  }
}

// The products of a step with x (when fused) and h, and the update of the cells. `rows` is the
// memory of a member for rows below float32.
void RecurrentPlan::step_cells(const CellPhase& phase, StepArgs& args, char* rows) const {
  if (args.panel_begin == args.panel_end) return;
  const int64_t vector = phase.gates * kernels->width;
  const auto kind = static_cast<int>(phase.kind);
  if (low == nullptr) return kernels->step[kind](args);
  if (low->section > 0) return step_sections(phase, args, rows);
  LowStepArgs step{args, {}, {}, phase.low.data, phase.low.block_stride};
  if (args.input > 0) {
    step.x = rows_x.prepare(args.x, args.ldx, args.rows, rows);
  } else {
    step.w = phase.low.data + block_bytes(*low, low->depth(I), vector);
  }
  step.h = rows_h.prepare(args.h, args.ldh, args.rows, rows + rows_x.bytes());
  step.terms = low->terms;
  low->step[kind](step);
}

// The same by matrix products into memory and cells without products: those of int4 have no kernels
// of their own, since their weights take longer to come than all else.
void RecurrentPlan::step_sections(const CellPhase& phase, StepArgs& args, char* rows) const {
  const int64_t width = kernels->width, vector = phase.gates * width, columns = panels * vector;
  const int64_t begin = args.panel_begin, end = args.panel_end;
  auto* z = reinterpret_cast<float*>(rows + rows_x.bytes() + rows_h.bytes() + rows_hidden.bytes());
  LowGemmArgs product = low_product(phase.low, begin, end, width);
  product.m = args.rows;
  product.c = z + begin * vector;
  product.ldc = columns;
  product.init = args.z + begin * vector;
  product.ldi = args.ldz;
  if (args.input > 0) {
    product.k = I;
    product.a = rows_x.prepare(args.x, args.ldx, args.rows, rows);
    low->gemm(product);
    product.init = product.c;
    product.ldi = columns;
  }
  product.k = K;
  product.a = rows_h.prepare(args.h, args.ldh, args.rows, rows + rows_x.bytes());
  product.b = phase.low.data + begin * phase.low.block_stride + block_bytes(*low, I, vector);
  args.input = args.recurrent = 0;
  args.w = z;
  args.panel_stride = 0;
  const auto kind = static_cast<int>(phase.kind);
  if (phase.kind != StepKind::kGruAfter) {
    low->gemm(product);
    args.z = z;
    args.ldz = columns;
    return kernels->step[kind](args);
  }
  // The candidate's sum with h stays apart from that with x.
  float* apart = z + N * columns;
  for (int64_t r = 0; r < args.rows; ++r) {
    for (int64_t p = begin; p < end; ++p) {
      float* to = z + r * columns + p * vector;
      const float* from = product.init + r * product.ldi + (p - begin) * vector;
      std::copy(from + 2 * width, from + vector, apart + (r * panels + p) * width);
      if (to != from) std::copy(from, from + 2 * width, to);
      std::copy(args.bias_h + p * width, args.bias_h + (p + 1) * width, to + 2 * width);
    }
  }
  product.init = product.c;
  product.ldi = columns;
  low->gemm(product);
  for (int64_t r = 0; r < args.rows; ++r) {
    for (int64_t p = begin; p < end; ++p) {
      float* own = z + r * columns + p * vector + 2 * width;
      std::swap_ranges(own, own + width, apart + (r * panels + p) * width);
    }
  }
  const StepArgs all = args;
  for (int64_t r = 0; r < all.rows; ++r) {
    args.rows = 1;
    args.z = z + r * columns;
    args.bias_h = apart + r * panels * width;
    args.h = all.h + r * all.ldh;
    args.h_out = all.h_out + r * all.ldh_out;
    kernels->step[kind](args);
  }
}

// c = init + a * b for blocks [begin, end) of four vectors, or those that there are; args says all
// but b, `memory` is for the prepared rows of a buffer.
void RecurrentPlan::multiply(const ProductWeights& b, int64_t begin, int64_t end,
                             const GemmArgs& args, const LowBuffer& buffer, char* memory) const {
  const int64_t width = kernels->width;
  if (low == nullptr) return kernels->gemm(float_product(b.floats, begin, end, width, args));
  LowGemmArgs product = low_product(b.low, begin, end, width);
  product.m = args.m;
  product.terms = low->terms;
  product.a = buffer.prepare(args.a, args.lda, args.m, memory);
  product.init = args.init;
  product.ldi = args.ldi;
  product.c = args.c;
  product.ldc = args.ldc;
  low->gemm(product);
}

// y = hidden * projection for `rows` rows.
void RecurrentPlan::project(const Sequence& s, int64_t rows, float* y, const Team& team,
                            int part) const {
  const int64_t block = 4 * kernels->width;
  const int64_t blocks = (K + block - 1) / block;
  const int64_t begin = team.begin(blocks, part), end = team.end(blocks, part);
  if (begin == end) return;
  GemmArgs args{};
  args.m = rows;
  args.a = s.hidden;
  args.lda = H;
  args.c = y + begin * block;
  args.ldc = K;
  char* memory = member(s, team) + rows_x.bytes() + rows_h.bytes();
  multiply(s.direction->projection, begin, end, args, rows_hidden, memory);
}

char* RecurrentPlan::member(const Sequence& s, const Team& team) const {
  return s.prepared + team.index() * member_bytes;
}

}  // namespace gruengine
