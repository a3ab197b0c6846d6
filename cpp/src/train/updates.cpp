// SPDX-License-Identifier: MIT
// Optimizer steps, the norm for clipping, losses and gradients that go with an index.
#include <algorithm>
#include <cmath>
#include <string>

#include "engine/parallel.h"
#include "gruengine/training_math.h"
#include "isa/denormals.h"
#include "isa/dispatch.h"
#include "isa/train_table.h"

namespace gruengine {
namespace {

constexpr int64_t kWorthThreads = 100'000;
constexpr int64_t kBlock = 4096;

void run(UpdateRule rule, const ParameterUpdate& u, UpdateArgs args, int num_threads) {
  args.scale = u.scale;
  args.eps = static_cast<float>(u.eps);
  args.nesterov = u.nesterov;
  args.decoupled = u.decoupled;
  args.decay = static_cast<float>(u.decoupled ? u.rate * u.weight_decay : u.weight_decay);
  const auto apply = kernels().train->update[static_cast<int>(rule)];
  run_team(u.n < kWorthThreads ? 1 : num_threads, [&](const Team& team) {
    const FlushDenormals flush;
    const int64_t first = team.begin(u.n);
    UpdateArgs part = args;
    part.n = team.end(u.n) - first;
    part.w = u.w + first;
    part.g = u.g + first;
    part.m = u.m != nullptr ? u.m + first : nullptr;
    part.v = u.v != nullptr ? u.v + first : nullptr;
    apply(part);
  });
}

}  // namespace

void sgd(const ParameterUpdate& u, int num_threads) {
  UpdateArgs args{};
  args.rate = static_cast<float>(u.rate);
  args.beta1 = static_cast<float>(u.beta1);
  args.beta2 = static_cast<float>(1.0 - u.beta2);
  run(UpdateRule::kSgd, u, args, num_threads);
}

void rmsprop(const ParameterUpdate& u, int num_threads) {
  UpdateArgs args{};
  args.rate = static_cast<float>(u.rate);
  args.beta1 = static_cast<float>(u.beta1);
  args.beta2 = static_cast<float>(u.beta2);
  args.rest2 = static_cast<float>(1.0 - u.beta2);
  run(UpdateRule::kRmsprop, u, args, num_threads);
}

void adam(const ParameterUpdate& u, int num_threads) {
  const auto step = static_cast<double>(u.step);
  UpdateArgs args{};
  args.rate = static_cast<float>(u.rate / (1.0 - std::pow(u.beta1, step)));
  args.correction = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(u.beta2, step)));
  args.beta1 = static_cast<float>(1.0 - u.beta1);
  args.beta2 = static_cast<float>(u.beta2);
  args.rest2 = static_cast<float>(1.0 - u.beta2);
  run(UpdateRule::kAdam, u, args, num_threads);
}

double sum_of_squares(const float* x, int64_t n) {
  const FlushDenormals flush;
  double total = 0;
  for (int64_t i = 0; i < n; i += kBlock) {
    float part = 0;
    kernels().reduce(Reduce::kSumSquare, x + i, 1, std::min(kBlock, n - i), kBlock, &part);
    total += static_cast<double>(part);
  }
  return total;
}

void embedding_gradient(const int64_t* ids, int64_t count, const float* dy, int64_t width,
                        int64_t size, float* table) {
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] >= 0 && ids[i] < size) continue;
    throw Error(ErrorCode::kInvalidArgument, "embedding gradient: id " + std::to_string(ids[i]) +
                                                 "; it must be from 0 to " +
                                                 std::to_string(size - 1));
  }
  const FlushDenormals flush;
  for (int64_t i = 0; i < count; ++i) {
    float* row = table + ids[i] * width;
    kernels().combine(Binary::kAdd, row, 1, dy + i * width, 1, row, width);
  }
}

void cross_entropy(const float* x, int64_t rows, int64_t n, const int64_t* target,
                   const float* weight, int64_t ignored, float* losses, float* dx) {
  for (int64_t i = 0; i < rows; ++i) {
    if (target[i] == ignored || (target[i] >= 0 && target[i] < n)) continue;
    throw Error(ErrorCode::kInvalidArgument,
                "cross entropy: target " + std::to_string(target[i]) + " of row " +
                    std::to_string(i) + "; it must be from 0 to " + std::to_string(n - 1) +
                    ", or " + std::to_string(ignored) + " to be ignored");
  }
  const FlushDenormals flush;
  kernels().train->cross_entropy(x, rows, n, target, weight, ignored, losses, dx);
}

}  // namespace gruengine
