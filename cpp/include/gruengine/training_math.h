// SPDX-License-Identifier: MIT
// What training needs beside recurrent layers. Arrays are float32, row-major and contiguous.
// Numbers do not depend on the number of threads.
#pragma once

#include <cstdint>

#include "gruengine/error.h"
#include "gruengine/export.h"
#include "gruengine/model.h"

namespace gruengine {

// c [m, n] = init + op(a) op(b), inner size k: each element one chain in ascending k.
struct Matmul {
  int64_t m, n, k;
  const float* a;  // [m, k], or [k, m] when a_transposed
  const float* b;  // [k, n], or [n, k] when b_transposed
  bool a_transposed, b_transposed;
  const float* bias;  // [n] or nullptr: every row starts from it
  bool accumulate;    // start from c itself
  float* c;
};
// In bfloat16 both operands are rounded and sums are float32.
// Throws Error(kInvalidArgument) for another type than float32 or bfloat16.
GRUENGINE_API void matmul(const Matmul& product, int num_threads,
                          ComputeType type = ComputeType::kFloat32);

// sums [n] (+)= the sum of the rows of x [rows, n].
GRUENGINE_API void sum_rows(const float* x, int64_t rows, int64_t n, bool accumulate, float* sums);

// table[ids[i]] += dy[i] in ascending i; table [size, width], dy [count, width].
// Throws Error(kInvalidArgument) for an id out of range, before anything is written.
GRUENGINE_API void embedding_gradient(const int64_t* ids, int64_t count, const float* dy,
                                      int64_t width, int64_t size, float* table);

// losses[i] = weight[i] * -log softmax(x[i])[target[i]] and its gradient dx [rows, n] (may be x);
// both 0 where target[i] == ignored. weight nullptr: ones. Throws Error(kInvalidArgument).
GRUENGINE_API void cross_entropy(const float* x, int64_t rows, int64_t n, const int64_t* target,
                                 const float* weight, int64_t ignored, float* losses, float* dx);

// The sum of squares, in float64 over blocks.
GRUENGINE_API double sum_of_squares(const float* x, int64_t n);

// One step of an optimizer on n parameters. Gradients are multiplied by `scale` first.
struct ParameterUpdate {
  int64_t n;
  float* w;
  const float* g;
  float* m;  // SGD, RMSprop: momentum buffer, or nullptr without momentum; Adam: first moment
  float* v;  // RMSprop, Adam: second moment
  float scale;
  double rate;
  double beta1;  // momentum, or decay of the first moment
  double beta2;  // SGD: dampening; else decay of the second moment
  double eps;
  double weight_decay;
  bool decoupled;  // AdamW: the weight shrinks by rate * weight_decay
  bool nesterov;
  int64_t step;  // Adam: from 1
};
GRUENGINE_API void sgd(const ParameterUpdate& update, int num_threads);
GRUENGINE_API void rmsprop(const ParameterUpdate& update, int num_threads);
GRUENGINE_API void adam(const ParameterUpdate& update, int num_threads);

}  // namespace gruengine
