// SPDX-License-Identifier: MIT
#include "ops/low_right.h"

#include <algorithm>

#include "engine/parallel.h"
#include "engine/thread_worth.h"
#include "ops/panels.h"

namespace gruengine {
namespace {

constexpr int64_t kRowsAtOnce = 128;

// Rows [first, last) of a product, a few at a time in memory of this member.
void multiply_rows(const LowRight& right, const GemmArgs& product, int64_t first, int64_t last,
                   char* memory) {
  for (int64_t row = first; row < last; row += right.rows.rows) {
    LowGemmArgs part{};
    part.m = std::min(right.rows.rows, last - row);
    part.n = product.n;
    part.k = product.k;
    part.terms = right.rows.low->terms;
    part.a = right.rows.prepare(product.a + row * product.lda, product.lda, part.m, memory);
    part.b = right.matrix.data;
    part.block_stride = right.matrix.block_stride;
    part.nv = right.matrix.nv;
    part.init = product.init == nullptr ? nullptr : product.init + row * product.ldi;
    part.ldi = product.ldi;
    part.c = product.c + row * product.ldc;
    part.ldc = product.ldc;
    right.rows.low->gemm(part);
  }
}

}  // namespace

bool is_low(const NodeBuilder& b, int64_t k, int64_t n) {
  return b.low() != nullptr && k * n >= kFewWeights && k <= kMostLowRows;
}

LowRight low_right(NodeBuilder& b, const RightForm& form, int64_t m) {
  const Value& value = b.expect(form.input, DType::kFloat32);
  const auto* data = static_cast<const float*>(value.constant);
  if (data == nullptr) b.refuse(ErrorCode::kInternal, "packs what is not there");
  const std::string key = form.form + ":" + std::to_string(reinterpret_cast<intptr_t>(data)) + ":" +
                          std::to_string(form.k) + ":" + std::to_string(form.n);
  const LowType& low = form.kernels != nullptr ? *form.kernels : *b.low();
  LowRight right;
  right.matrix = b.store(value).low_matrix(
      key, low, {form.k}, form.n, 4, b.kernels().width,
      [&](int64_t row, int64_t column) { return data + form.place(row, column); });
  right.rows = {&low, std::clamp<int64_t>(m, 1, kRowsAtOnce), form.k};
  right.slot = b.scratch(b.threads() * right.rows.bytes());
  return right;
}

void multiply(const Frame& f, const LowRight& right, const GemmArgs& product) {
  char* memory = f.at<char>(right.slot);
  if (f.threads <= 1 || product.m < 2 || product.m * product.n * product.k < kSharedProduct) {
    return multiply_rows(right, product, 0, product.m, memory);
  }
  run_helped(f.threads, product.m * product.n * product.k >= kWokenProduct, [&](Team& team) {
    team.share([&](int part) {
      multiply_rows(right, product, team.begin(product.m, part), team.end(product.m, part),
                    memory + team.index() * right.rows.bytes());
    });
  });
}

}  // namespace gruengine
