// SPDX-License-Identifier: MIT
// Binary operators, reductions, softmax and layer normalisation against float64; dispatch and the
// denormal mode.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>

#include "check.h"
#include "gruengine/error.h"
#include "isa/denormals.h"
#include "kernel_cases.h"

namespace gruengine::test {
namespace {

const float kNan = std::nanf("");
const float kInf = std::numeric_limits<float>::infinity();

float binary(Binary op, float a, float b) {
  switch (op) {
    case Binary::kAdd:
      return a + b;
    case Binary::kSub:
      return a - b;
    case Binary::kMul:
      return a * b;
    case Binary::kDiv:
      return a / b;
    case Binary::kMin:
      return std::isnan(a) || std::isnan(b) ? kNan : std::min(a, b);
    default:
      return std::isnan(a) || std::isnan(b) ? kNan : std::max(a, b);
  }
}

std::vector<int64_t> sizes(const KernelTable& table) {
  const int64_t v = table.width;
  std::vector<int64_t> all = {1, v - 1, v, v + 1, 2 * v + 3, 4 * v, 9 * v + 1, 300};
  all.erase(std::remove(all.begin(), all.end(), 0), all.end());
  return all;
}

void check_combine(const KernelTable& table) {
  for (const int64_t n : sizes(table)) {
    for (int op = 0; op <= static_cast<int>(Binary::kMax); ++op) {
      for (int strides = 0; strides < 4; ++strides) {
        for (int target = 0; target < 3; ++target) {  // y apart, y = a, y = b
          const int64_t sa = strides & 1;
          const int64_t sb = strides >> 1;
          Guarded a(1, n, 0, random_floats(n, 2.0f));
          Guarded b(1, n, 0, random_floats(n, 2.0f));
          a.data()[n / 2] = kNan;
          b.data()[n / 3] = kNan;
          Guarded y(1, n, 0);
          Floats want;
          for (int64_t i = 0; i < n; ++i) {
            want.push_back(binary(static_cast<Binary>(op), a.data()[i * sa], b.data()[i * sb]));
          }
          Guarded& out = target == 0 ? y : target == 1 ? a : b;
          table.combine(static_cast<Binary>(op), a.data(), sa, b.data(), sb, out.data(), n);
          for (int64_t i = 0; i < n; ++i) {
            const float got = out.data()[i];
            const float w = want[static_cast<size_t>(i)];
            CHECK(got == w || (std::isnan(got) && std::isnan(w)),
                  "%s combine op %d n=%d strides %d y %d: [%d] %g, not %g", table.isa, op,
                  static_cast<int>(n), strides, target, static_cast<int>(i), got, w);
          }
          CHECK(a.intact() && b.intact() && y.intact(), "%s combine wrote outside", table.isa);
        }
      }
    }
  }
}

double reduced(Reduce op, const float* x, int64_t n) {
  double sum = 0, squares = 0, top = x[0], bottom = x[0];
  for (int64_t i = 0; i < n; ++i) {
    sum += x[i];
    squares += double{x[i]} * x[i];
    top = std::max<double>(top, x[i]);
    bottom = std::min<double>(bottom, x[i]);
  }
  switch (op) {
    case Reduce::kSum:
      return sum;
    case Reduce::kMean:
      return sum / static_cast<double>(n);
    case Reduce::kMax:
      return top;
    case Reduce::kMin:
      return bottom;
    default:
      return squares;
  }
}

void check_reduce(const KernelTable& table) {
  const int64_t rows = 3;
  for (const int64_t n : sizes(table)) {
    Guarded x(rows, n, 2, random_floats(rows * n, 5.0f));
    for (int op = 0; op <= static_cast<int>(Reduce::kSumSquare); ++op) {
      Guarded y(1, rows, 0);
      table.reduce(static_cast<Reduce>(op), x.data(), rows, n, x.ld(), y.data());
      for (int64_t r = 0; r < rows; ++r) {
        const double want = reduced(static_cast<Reduce>(op), x.row(r), n);
        CHECK(std::fabs(y.data()[r] - want) <= 1e-6 * (1 + 5.0 * static_cast<double>(n)),
              "%s reduce %d n=%d: %g, not %g", table.isa, op, static_cast<int>(n), y.data()[r],
              want);
      }
      for (const int64_t place : {int64_t{0}, n / 2, n - 1}) {
        const float kept = x.row(1)[place];
        x.row(1)[place] = kNan;
        table.reduce(static_cast<Reduce>(op), x.data(), rows, n, x.ld(), y.data());
        CHECK(!std::isnan(y.data()[0]) && std::isnan(y.data()[1]), "%s reduce %d loses NaN at %d",
              table.isa, op, static_cast<int>(place));
        x.row(1)[place] = kept;
      }
      CHECK(y.intact(), "%s reduce wrote outside", table.isa);
    }
  }
}

void check_softmax(const KernelTable& table) {
  const int64_t rows = 3;
  for (const int64_t n : sizes(table)) {
    for (const bool logarithm : {false, true}) {
      Guarded x(1, rows * n, 0, random_floats(rows * n, 30.0f));
      Guarded y(1, rows * n, 0);
      if (n > 1) x.data()[n - 1] = -kInf;
      table.softmax(x.data(), rows, n, logarithm, y.data());
      for (int64_t r = 0; r < rows; ++r) {
        const float* in = x.data() + r * n;
        const double top = reduced(Reduce::kMax, in, n);
        double total = 0;
        for (int64_t i = 0; i < n; ++i) total += std::exp(in[i] - top);
        for (int64_t i = 0; i < n; ++i) {
          const double want =
              logarithm ? in[i] - top - std::log(total) : std::exp(in[i] - top) / total;
          const double got = y.data()[r * n + i];
          CHECK(got == want || std::fabs(got - want) <= 1e-5 * std::fabs(want) + 1e-6 * logarithm,
                "%s softmax n=%d log=%d: %g, not %g", table.isa, static_cast<int>(n), logarithm,
                got, want);
        }
      }
      CHECK(y.intact(), "%s softmax wrote outside", table.isa);
      table.softmax(x.data(), rows, n, logarithm, x.data());
      CHECK(same_bits(x.data(), y.data(), rows * n) && x.intact(), "%s softmax in place",
            table.isa);
    }
  }
}

void check_layer_norm(const KernelTable& table) {
  const int64_t rows = 3;
  const double eps = 1e-5f;
  for (const int64_t n : sizes(table)) {
    for (const bool shifted : {false, true}) {
      Guarded x(1, rows * n, 0, random_floats(rows * n, 2.0f));
      for (int64_t i = 0; i < n; ++i) x.data()[i] += 100.0f;  // mean far from zero
      Guarded y(1, rows * n, 0);
      const Floats scale = random_floats(n, 1.0f);
      const Floats shift = random_floats(n, 1.0f);
      table.layer_norm(x.data(), rows, n, scale.data(), shifted ? shift.data() : nullptr, 1e-5f,
                       y.data());
      for (int64_t r = 0; r < rows; ++r) {
        const float* in = x.data() + r * n;
        const double mean = reduced(Reduce::kMean, in, n);
        double variance = 0;
        for (int64_t i = 0; i < n; ++i) variance += (in[i] - mean) * (in[i] - mean);
        const double deviation = std::sqrt(variance / static_cast<double>(n) + eps);
        for (int64_t i = 0; i < n; ++i) {
          const size_t at = static_cast<size_t>(i);
          const double want = (in[i] - mean) / deviation * scale[at] + (shifted ? shift[at] : 0.0f);
          const double tolerance = n == 1 ? 1e-2 : 1e-4;
          CHECK(std::fabs(y.data()[r * n + i] - want) <= tolerance,
                "%s layer_norm n=%d: %g, not %g", table.isa, static_cast<int>(n),
                y.data()[r * n + i], want);
        }
      }
      CHECK(y.intact(), "%s layer_norm wrote outside", table.isa);
    }
  }
}

std::string error_of(const char* name) {
  try {
    force_isa(name);
  } catch (const Error& e) {
    return e.code() == ErrorCode::kInvalidArgument ? e.what() : "wrong code";
  }
  return "";
}

void check_dispatch() {
  CHECK(isa_list().front().supported, "the scalar set must run everywhere");
  for (const IsaInfo& isa : isa_list()) {
    CHECK(std::string(isa.table->isa) == isa.name, "table of %s", isa.name);
    CHECK(isa.supported == (*isa.reason == '\0'), "%s: %s", isa.name, isa.reason);
    if (!isa.supported) continue;
    force_isa(isa.name);
    CHECK(&kernels() == isa.table && isa_choice() == "forced by gr.isa", "%s", isa.name);
  }
  const std::string error = error_of("avx1024");
  CHECK(error.find("'avx1024'") != std::string::npos, "%s", error.c_str());
  CHECK(error.find("scalar") != std::string::npos, "%s", error.c_str());
  force_isa("");
  // The first use without force reads the variable: wrong names are refused each time.
  setenv("GRUENGINE_ISA", "sse9", 1);
  for (int i = 0; i < 2; ++i) {
    bool thrown = false;
    try {
      kernels();
    } catch (const Error&) {
      thrown = true;
    }
    CHECK(thrown, "GRUENGINE_ISA=sse9 accepted");
  }
  setenv("GRUENGINE_ISA", "scalar", 1);
  CHECK(std::string(kernels().isa) == "scalar" && isa_choice() == "forced by GRUENGINE_ISA", "%s",
        kernels().isa);
}

void check_denormals() {
  volatile float tiny = 1e-30f;
  const auto product = [&] { return tiny * 1e-10f; };
  CHECK(product() != 0.0f, "subnormals are kept outside");
  {
    const FlushDenormals flush;
    CHECK(product() == 0.0f, "subnormals are flushed inside");
  }
  CHECK(product() != 0.0f, "the caller's mode comes back");
}

}  // namespace
}  // namespace gruengine::test

int main() {
  using namespace gruengine::test;
  for_each_isa([](const gruengine::KernelTable& table) {
    check_combine(table);
    check_reduce(table);
    check_softmax(table);
    check_layer_norm(table);
  });
  check_dispatch();
  check_denormals();
  return REPORT();
}
