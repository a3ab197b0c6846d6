// SPDX-License-Identifier: MIT
// The elementwise functions against float64, in units of the last place, over every exponent, sign
// and special value; --exhaustive takes all 2^32 floats for sigmoid and tanh on the best set.
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

#include "check.h"
#include "kernel_cases.h"

namespace gruengine::test {
namespace {

constexpr float kAlpha = 0.75f;
constexpr float kBeta = 1.25f;
constexpr float kInf = std::numeric_limits<float>::infinity();

struct Exact {
  Function kind;
  const char* name;
  double (*value)(double);
  double ulps;  // largest error allowed
  float alpha, beta;
};

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }
double softplus(double x) { return std::fmax(x, 0.0) + std::log1p(std::exp(-std::fabs(x))); }

const Exact kFunctions[] = {
    {Function::kSigmoid, "sigmoid", sigmoid, 2, 0, 0},
    {Function::kTanh, "tanh", [](double x) { return std::tanh(x); }, 2, 0, 0},
    {Function::kRelu, "relu", [](double x) { return x > 0 || std::isnan(x) ? x : 0.0; }, 0, 0, 0},
    {Function::kAffine, "affine", [](double x) { return kAlpha * x + kBeta; }, 3e6, kAlpha, kBeta},
    {Function::kLeakyRelu, "leaky_relu", [](double x) { return x >= 0 ? x : kAlpha * x; }, 0.5,
     kAlpha, 0},
    {Function::kThresholdedRelu, "thresholded_relu",
     [](double x) { return x > kAlpha || std::isnan(x) ? x : 0.0; }, 0, kAlpha, 0},
    {Function::kScaledTanh, "scaled_tanh", [](double x) { return kAlpha * std::tanh(kBeta * x); },
     4, kAlpha, kBeta},
    {Function::kHardSigmoid, "hard_sigmoid",
     [](double x) {
       const double y = double{0.2f} * x + 0.5;
       return y < 0 ? 0.0 : y > 1 ? 1.0 : y;
     },
     3e6, 0.2f, 0.5f},
    {Function::kElu, "elu", [](double x) { return x >= 0 ? x : kAlpha * std::expm1(x); }, 3, kAlpha,
     0},
    {Function::kSoftsign, "softsign",
     [](double x) { return std::isinf(x) ? (x > 0 ? 1.0 : -1.0) : x / (1 + std::fabs(x)); }, 1.5, 0,
     0},
    {Function::kSoftplus, "softplus", softplus, 2, 0, 0},
    {Function::kNeg, "neg", [](double x) { return -x; }, 0, 0, 0},
    {Function::kAbs, "abs", [](double x) { return std::fabs(x); }, 0, 0, 0},
    {Function::kSqrt, "sqrt", [](double x) { return std::sqrt(x); }, 0.51, 0, 0},
    {Function::kExp, "exp", [](double x) { return std::exp(x); }, 1.2, 0, 0},
    {Function::kLog, "log", [](double x) { return std::log(x); }, 2, 0, 0},
    {Function::kReciprocal, "reciprocal", [](double x) { return 1.0 / x; }, 0.51, 0, 0},
    {Function::kSquare, "square", [](double x) { return x * x; }, 0.51, 0, 0},
    {Function::kErf, "erf", [](double x) { return std::erf(x); }, 2, 0, 0},
    {Function::kFloor, "floor", [](double x) { return std::floor(x); }, 0, 0, 0},
    {Function::kCeil, "ceil", [](double x) { return std::ceil(x); }, 0, 0, 0},
};

// Distance of y from the exact value, in units of the last place of the exact value.
double ulps(float y, double exact) {
  if (std::isnan(exact)) return std::isnan(y) ? 0.0 : 1e30;
  const double largest = FLT_MAX;
  if (std::fabs(exact) > largest * (1 + 1e-7)) {
    return std::isinf(y) && (y > 0) == (exact > 0) ? 0.0 : 1e30;
  }
  if (std::isinf(y)) return std::fabs(exact) > largest * (1 - 2e-7) ? 0.0 : 1e30;
  const double error = std::fabs(y - exact);
  if (std::fabs(exact) < FLT_MIN) return error <= FLT_MIN ? 0.0 : 1e30;
  int e = 0;
  std::frexp(exact, &e);
  return error / std::ldexp(1.0, e - 24);
}

float of_bits(uint32_t b) {
  float x;
  std::memcpy(&x, &b, 4);
  return x;
}

// Functions that cancel are off by the rounding of their largest term, not of their result.
double allowed(const Exact& f, float x, float y) {
  if (f.ulps < 1e6 || std::isinf(x)) return f.ulps;
  const double largest = std::fmax(std::fabs(double{f.alpha} * x), std::fabs(f.beta));
  return 1.0 + 2 * largest / std::fmax(std::fabs(double{y}), 1e-300);
}

struct Worst {
  double error = 0;
  float x = 0;
};

// The scalar set has no fused product: sigmoid may be off by a little more.
double slack(const KernelTable& table) { return table.width == 1 ? 0.1 : 0.0; }

void check_block(const KernelTable& table, const Exact& f, const Floats& x, Worst* worst) {
  Floats y(x.size());
  table.map({f.kind, f.alpha, f.beta}, x.data(), y.data(), static_cast<int64_t>(x.size()));
  for (size_t i = 0; i < x.size(); ++i) {
    // A subnormal argument may count as zero.
    const bool subnormal = x[i] != 0 && std::fabs(x[i]) < FLT_MIN;
    double error = ulps(y[i], f.value(x[i]));
    if (subnormal) error = std::fmin(error, ulps(y[i], f.value(std::copysign(0.0, x[i]))));
    if (error > worst->error) *worst = {error, x[i]};
    CHECK(error <= allowed(f, x[i], y[i]) + slack(table),
          "%s %s(%.9g) = %.9g, exact %.9g: %.3g ulp", table.isa, f.name, x[i], y[i], f.value(x[i]),
          error);
  }
}

void check_function(const KernelTable& table, const Exact& f, uint32_t stride) {
  Worst worst;
  Floats x;
  for (uint64_t b = 0; b < (1ull << 32); b += stride) {
    x.push_back(of_bits(static_cast<uint32_t>(b)));
    if (x.size() == 4096) {
      check_block(table, f, x, &worst);
      x.clear();
    }
  }
  for (const float special :
       {0.0f,  1.0f,     kInf,  std::nanf(""), FLT_MIN,    FLT_MAX,     1e-40f,   0.625f, 0.9f,
        87.0f, 87.3365f, 88.0f, 88.7228f,      88.8f,      89.0f,       104.0f,   9.01f,  10.0f,
        0.5f,  1.5f,     2.5f,  8388607.5f,    8388608.0f, 16777216.0f, 0.34657f, 1e-6f}) {
    x.push_back(special);
    x.push_back(-special);
  }
  check_block(table, f, x, &worst);
  std::printf("%-8s %-16s worst %.3f ulp at %.9g\n", table.isa, f.name, worst.error, worst.x);
}

// Same bits at every place in an array and in place; nothing written behind the end.
void check_places(const KernelTable& table, const Exact& f) {
  const int64_t v = table.width;
  for (const int64_t n : {int64_t{0}, int64_t{1}, v - 1, v, v + 1, 2 * v + 3, 5 * v}) {
    if (n < 0) continue;
    Guarded x(1, n, 0, random_floats(n, 3.0f));
    Guarded y(1, n, 0);
    const FunctionSpec spec = {f.kind, f.alpha, f.beta};
    table.map(spec, x.data(), y.data(), n);
    CHECK(x.intact() && y.intact(), "%s %s wrote outside", table.isa, f.name);
    for (int64_t i = 0; i < n; ++i) {
      float one = 0.0f;
      table.map(spec, x.data() + i, &one, 1);
      CHECK(same_bits(&one, y.data() + i, 1) || std::isnan(one), "%s %s depends on the place",
            table.isa, f.name);
    }
    table.map(spec, x.data(), x.data(), n);
    CHECK(std::isnan(y.data()[0]) || same_bits(x.data(), y.data(), n) || f.kind == Function::kLog ||
              f.kind == Function::kSqrt,
          "%s %s in place differs", table.isa, f.name);
  }
}

void exhaustive() {
  const KernelTable& table = *[] {
    const KernelTable* best = nullptr;
    for_each_isa([&](const KernelTable& t) { best = &t; });
    return best;
  }();
  check_function(table, kFunctions[0], 1);
  check_function(table, kFunctions[1], 1);
}

}  // namespace
}  // namespace gruengine::test

int main(int argc, char** argv) {
  using namespace gruengine::test;
  if (argc > 1 && std::strcmp(argv[1], "--exhaustive") == 0) {
    exhaustive();
    return REPORT();
  }
  for_each_isa([](const gruengine::KernelTable& table) {
    for (const Exact& f : kFunctions) {
      check_function(table, f, 16411);  // prime: every exponent, all kinds of mantissas
      check_places(table, f);
    }
  });
  return REPORT();
}
