// SPDX-License-Identifier: MIT
// Measures what one core allows: usage `machine BYTES...`. For each working set the rate at which
// it is loaded again and again, in GB/s; then the clock in GHz and the peaks of multiply-adds in
// GFLOP/s or GOP/s (two operations each): one line `name value` each. benchmarks/machine.py chooses
// the instruction set by flags of the compiler. Always the best of several rounds: a bound.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__AMX_TILE__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64, kSums = 24;
#elif defined(__AVX2__)
constexpr int kBytes = 32, kSums = 12;
#else
constexpr int kBytes = 16, kSums = 12;
#endif
typedef float Vec __attribute__((vector_size(kBytes)));

#if defined(__x86_64__)
#define KEEP(v) asm volatile("" : "+v"(v))
#else
#define KEEP(v) asm volatile("" : "+w"(v))
#endif

using Clock = std::chrono::steady_clock;

// Units of work a nanosecond, at best.
template <class F>
double best(double work, F run) {
  double found = 0;
  run();
  for (int round = 0; round < 15; ++round) {
    const auto start = Clock::now();
    run();
    const double ns = std::chrono::duration<double, std::nano>(Clock::now() - start).count();
    found = std::max(found, work / ns);
  }
  return found;
}

// Cycles of a chain of integer products, three each.
double clock_rate() {
  constexpr int kLinks = 100'000;
  return best(3.0 * kLinks, [] {
    uint64_t x = 3;
    for (int i = 0; i < kLinks; ++i) {
      x *= 0x9E3779B97F4A7C15u;
      asm volatile("" : "+r"(x));
    }
  });
}

double load_rate(size_t bytes) {
  constexpr size_t kPage = size_t{2} << 20, kLine = 8 * kBytes;
  bytes = bytes / kLine * kLine;
  const size_t whole = (bytes + kPage - 1) / kPage * kPage;
  char* data = static_cast<char*>(std::aligned_alloc(kPage, whole));
  if (data == nullptr) return 0;
#if defined(__linux__)
  madvise(data, whole, MADV_HUGEPAGE);
#endif
  std::memset(data, 0, whole);
  const size_t times = std::max<size_t>(1, (size_t{8} << 20) / bytes);
  const double rate = best(static_cast<double>(bytes * times), [&] {
    Vec sums[8] = {};
    for (size_t t = 0; t < times; ++t) {
      for (size_t at = 0; at < bytes; at += kLine) {
        for (int i = 0; i < 8; ++i) {
          sums[i] += *reinterpret_cast<const Vec*>(data + at + static_cast<size_t>(i) * kBytes);
        }
      }
      for (auto& sum : sums) KEEP(sum);
    }
  });
  std::free(data);
  return rate;
}

constexpr int kTurns = 20'000;

// step(sum) adds `each` operations to each of some independent sums, named one by one so that they
// stay in registers.
template <class T, class F, int... I>
double peak(double each, F step, std::integer_sequence<int, I...>) {
  return best(each * sizeof...(I) * kTurns, [&] {
    T sums[sizeof...(I)] = {};
    for (int i = 0; i < kTurns; ++i) {
      (step(sums[I]), ...);
      ((void)[&] { KEEP(sums[I]); }(), ...);
    }
  });
}
template <class T, class F>
double peak(double each, F step) {
  return peak<T>(each, step, std::make_integer_sequence<int, kSums>());
}

double float_peak() {
  Vec a = {}, b = {};
  KEEP(a);
  KEEP(b);
  return peak<Vec>(2.0 * kBytes / 4, [&](Vec& sum) { sum = a * b + sum; });
}

// 0 where there is no instruction for sums of products of bytes.
double int8_peak() {
#if defined(__AVX512VNNI__)
  __m512i a = _mm512_setzero_si512();
  KEEP(a);
  return peak<__m512i>(128, [&](__m512i& sum) { sum = _mm512_dpbusd_epi32(sum, a, a); });
#elif defined(__AVXVNNI__)
  __m256i a = _mm256_setzero_si256();
  KEEP(a);
  return peak<__m256i>(64, [&](__m256i& sum) { sum = _mm256_dpbusd_avx_epi32(sum, a, a); });
#elif defined(__ARM_FEATURE_DOTPROD)
  int8x16_t a = vdupq_n_s8(0);
  KEEP(a);
  return peak<int32x4_t>(32, [&](int32x4_t& sum) { sum = vdotq_s32(sum, a, a); });
#else
  return 0;
#endif
}

#if defined(__AMX_TILE__)
struct alignas(64) Tiles {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

// Four sums of tiles from four tiles: what keeps their unit busy.
void amx_peaks() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) return;
  Tiles tiles;
  std::fill_n(tiles.bytes, 8, uint16_t{64});
  std::fill_n(tiles.rows, 8, uint8_t{16});
  _tile_loadconfig(&tiles);
  const double products = best(4.0 * 2 * 16 * 16 * 32 * kTurns, [] {
    for (int i = 0; i < kTurns; ++i) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  });
  std::printf("bfloat16 %.4g\n", products);
  const double bytes = best(4.0 * 2 * 16 * 16 * 64 * kTurns, [] {
    for (int i = 0; i < kTurns; ++i) {
      _tile_dpbusd(0, 4, 6);
      _tile_dpbusd(1, 4, 7);
      _tile_dpbusd(2, 5, 6);
      _tile_dpbusd(3, 5, 7);
    }
  });
  std::printf("int8 %.4g\n", bytes);
  _tile_release();
}
#endif

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    std::printf("%s %.4g\n", argv[i], load_rate(std::strtoull(argv[i], nullptr, 10)));
  }
  std::printf("ghz %.4g\nwidth %d\nfloat32 %.4g\n", clock_rate(), kBytes / 4, float_peak());
  if (const double bytes = int8_peak(); bytes > 0) std::printf("int8 %.4g\n", bytes);
#if defined(__AMX_TILE__)
  amx_peaks();
#endif
  return 0;
}
