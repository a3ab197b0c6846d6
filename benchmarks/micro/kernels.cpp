// SPDX-License-Identifier: MIT
// Times each kernel of one instruction set on one pinned thread, with weights in huge pages, beside
// the bound of the machine: usage `kernels [isa] [word of the case names to run]`.
// Build it against the kernels of cpp/ (cmake/isa.cmake); no part of the test suite.
#if defined(__linux__)
#include <sched.h>
#include <sys/mman.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "isa/denormals.h"
#include "isa/dispatch.h"
#include "isa/table.h"

namespace {

using gruengine::KernelTable;
using gruengine::StepKind;

// The reference machine: one core of an Emerald Rapids with AVX-512, loads from huge pages.
constexpr double kPeak = 200.0;   // GFLOP/s of f32 FMA
double bandwidth(double bytes) {  // GB/s of the level that holds so much
  if (bytes <= 40e3) return 223;
  if (bytes <= 1.25e6) return 144;
  if (bytes <= 1.6e6) return 94;
  if (bytes <= 2.2e6) return 60;
  return bytes <= 100e6 ? 29 : 16;
}

class Huge {
 public:
  explicit Huge(int64_t n) {
    constexpr size_t kPage = size_t{2} << 20;
    const size_t bytes = (static_cast<size_t>(n) * sizeof(float) + kPage - 1) / kPage * kPage;
    data_ = static_cast<float*>(::operator new[](bytes, std::align_val_t(kPage)));
#if defined(__linux__)
    madvise(data_, bytes, MADV_HUGEPAGE);
#endif
    std::mt19937 engine(7);
    std::uniform_real_distribution<float> u(-0.1f, 0.1f);
    for (size_t i = 0; i < bytes / sizeof(float); ++i) data_[i] = u(engine);
  }
  ~Huge() { ::operator delete[](data_, std::align_val_t(size_t{2} << 20)); }
  Huge(const Huge&) = delete;
  Huge& operator=(const Huge&) = delete;
  float* data() { return data_; }

 private:
  float* data_;
};

using Clock = std::chrono::steady_clock;

// Clock cycles in a nanosecond right now, from a chain of integer products of three cycles each:
// on a shared machine the clock moves by a fifth, so cycles compare better than times.
double clock_now() {
  constexpr int kLinks = 4096;
  uint64_t x = 3;
  const auto start = Clock::now();
  for (int i = 0; i < kLinks; ++i) {
    x *= 0x9E3779B97F4A7C15u;
    asm volatile("" : "+r"(x));
  }
  return 3.0 * kLinks / std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

struct Time {
  double ns;
  double cycles;
};

// The least time of a call over several rounds.
template <class F>
Time time_of(F f) {
  const auto round = [&](int64_t n) {
    const auto start = Clock::now();
    for (int64_t i = 0; i < n; ++i) f();
    return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
  };
  int64_t n = 1;
  while (round(n) < 2e6) n *= 2;
  // The best round is taken to be one at the highest clock seen.
  Time best = {1e30, 0};
  double clock = 0;
  for (int i = 0; i < 25; ++i) {
    best.ns = std::min(best.ns, round(n) / static_cast<double>(n));
    clock = std::max(clock, clock_now());
  }
  best.cycles = best.ns * clock;
  return best;
}

void print(const std::string& name, Time t, double flops, double bytes) {
  const double bound = std::max(flops / kPeak, bytes / bandwidth(bytes));
  std::printf(
      "%-28s %11.1f ns %11.0f cy %7.1f GFLOP/s %6.1f GB/s %6.1f B/cy  bound %9.0f ns %4.0f%%\n",
      name.c_str(), t.ns, t.cycles, flops / t.ns, bytes / t.ns, bytes / t.cycles, bound,
      100 * bound / t.ns);
  std::fflush(stdout);
}

struct Kind {
  StepKind kind;
  const char* name;
  int gates;
};

void time_step(const KernelTable& table, const Kind& kind, int64_t rows, int64_t input,
               int64_t hidden, const std::string& filter) {
  const std::string name = std::string(kind.name) + " N=" + std::to_string(rows) +
                           " I=" + std::to_string(input) + " H=" + std::to_string(hidden);
  if (name.find(filter) == std::string::npos) return;
  const int64_t v = table.width;
  const int64_t panels = (hidden + v - 1) / v;
  const int64_t stride = (input + hidden) * kind.gates * v;
  const int64_t columns = panels * kind.gates * v;
  Huge w(panels * stride);
  Huge data(columns * rows + panels * v * 4 + rows * (input + 5 * hidden) + 4096);
  float* at = data.data();
  const auto take = [&at](int64_t n) {
    float* p = at;
    at += (n + 15) / 16 * 16;
    return p;
  };
  gruengine::CellParams params = {};
  params.f = {gruengine::Function::kSigmoid, 0, 0};
  params.g = {gruengine::Function::kTanh, 0, 0};
  params.h = {gruengine::Function::kTanh, 0, 0};
  params.standard = true;
  gruengine::StepArgs args = {};
  args.rows = rows;
  args.panel_end = panels;
  args.hidden = hidden;
  args.input = input;
  args.recurrent = hidden;
  args.z = take(columns * rows);
  args.ldz = input == 0 ? columns : 0;
  args.bias_h = take(panels * v);
  args.x = take(rows * input);
  args.ldx = input;
  float* h[2] = {take(rows * hidden), take(rows * hidden)};
  float* c = take(rows * hidden);
  args.gate = take(rows * hidden);
  args.ldh = args.ldc = args.ldc_out = args.ldh_out = args.ldg = hidden;
  args.c = args.c_out = c;
  args.w = w.data();
  args.panel_stride = stride;
  args.params = &params;
  int turn = 0;
  const Time t = time_of([&] {
    args.h = h[turn];
    turn ^= 1;
    args.backwards = turn != 0;
    args.h_out = h[turn];
    table.step[static_cast<int>(kind.kind)](args);
  });
  const double weights = static_cast<double>(panels * stride);
  print(name, t, 2.0 * weights * static_cast<double>(rows), 4.0 * weights);
}

void time_gemm(const KernelTable& table, int64_t m, int64_t n, int64_t k, int nv,
               const std::string& filter) {
  const std::string name = "gemm M=" + std::to_string(m) + " N=" + std::to_string(n) +
                           " K=" + std::to_string(k) + " nv=" + std::to_string(nv);
  if (name.find(filter) == std::string::npos) return;
  const int64_t v = table.width;
  const int64_t blocks = (n + nv * v - 1) / (nv * v);
  Huge b(blocks * k * nv * v);
  Huge a(m * k);
  Huge c(m * n);
  Huge init(blocks * nv * v);
  gruengine::GemmArgs args = {};
  args.m = m;
  args.n = n;
  args.k = k;
  args.a = a.data();
  args.lda = k;
  args.b = b.data();
  args.block_stride = k * nv * v;
  args.nv = nv;
  args.init = init.data();
  args.c = c.data();
  args.ldc = n;
  const Time t = time_of([&] { table.gemm(args); });
  print(name, t, 2.0 * static_cast<double>(m * n * k), 4.0 * static_cast<double>(n * k));
}

void time_map(const KernelTable& table, gruengine::Function f, const char* what,
              const std::string& filter) {
  const std::string name = std::string("map ") + what + " n=1024";
  if (name.find(filter) == std::string::npos) return;
  Huge x(1024);
  Huge y(1024);
  for (int i = 0; i < 1024; ++i) x.data()[i] *= 40.0f;
  const Time t = time_of([&] { table.map({f, 0, 0}, x.data(), y.data(), 1024); });
  std::printf("%-30s %12.1f ns %8.2f cycles a vector\n", name.c_str(), t.ns,
              t.cycles * static_cast<double>(table.width) / 1024);
}

}  // namespace

int main(int argc, char** argv) {
#if defined(__linux__)
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  const char* cpu = std::getenv("BENCH_CPU");
  CPU_SET(cpu != nullptr ? std::atoi(cpu) : 1, &cpus);
  if (sched_setaffinity(0, sizeof(cpus), &cpus) != 0) std::perror("sched_setaffinity");
#endif
  gruengine::force_isa(argc > 1 ? argv[1] : "");
  const std::string filter = argc > 2 ? argv[2] : "";
  const KernelTable& table = gruengine::kernels();
  std::printf("%s, %s\n", table.isa, gruengine::isa_choice().c_str());
  const gruengine::FlushDenormals flush;
  const Kind kinds[] = {
      {StepKind::kLstm, "LSTM", 4}, {StepKind::kGruAfter, "GRU", 3}, {StepKind::kRnn, "RNN", 1}};
  for (const Kind& kind : kinds) {
    for (const int64_t h : {8, 16, 32, 48, 64, 128, 256, 512}) {
      time_step(table, kind, 1, h, h, filter);
    }
    time_step(table, kind, 1, 1, 32, filter);
    for (const int64_t h : {128, 256, 512}) time_step(table, kind, 1, 0, h, filter);
    for (const int64_t rows : {2, 4, 16, 32}) {
      for (const int64_t h : {32, 64, 128, 256, 512}) time_step(table, kind, rows, h, h, filter);
    }
  }
  for (const int nv : {1, 3, 4}) {
    time_gemm(table, 1, 512, 512, nv, filter);
    for (const int64_t k : {64, 256, 512, 1024}) {
      time_gemm(table, 100, nv * k, k, nv, filter);
    }
  }
  time_gemm(table, 16, 4096, 1024, 4, filter);
  time_map(table, gruengine::Function::kSigmoid, "sigmoid", filter);
  time_map(table, gruengine::Function::kTanh, "tanh", filter);
  time_map(table, gruengine::Function::kExp, "exp", filter);
  return 0;
}
