// SPDX-License-Identifier: MIT
// What this x86 CPU and its operating system lack for each instruction set; see cmake/isa.cmake.
#include "isa/detect.h"

#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif

#include <cstdint>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace gruengine {
namespace {

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r;
#if defined(_MSC_VER)
  int out[4];
  __cpuid(out, 0);
  if (static_cast<uint32_t>(out[0]) < leaf) return r;
  __cpuidex(out, static_cast<int>(leaf), static_cast<int>(subleaf));
  r = {static_cast<uint32_t>(out[0]), static_cast<uint32_t>(out[1]), static_cast<uint32_t>(out[2]),
       static_cast<uint32_t>(out[3])};
#else
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return Registers{};
#endif
  return r;
}

constexpr bool bit(uint32_t word, int n) { return ((word >> n) & 1u) != 0; }

// The register states that the operating system saves (XCR0).
uint64_t saved_states() {
  if (!bit(cpuid(1, 0).ecx, 27)) return 0;
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
#endif
}

constexpr uint64_t kYmmState = 0x06;
constexpr uint64_t kZmmState = 0xE6;
constexpr uint64_t kTileState = 0x60000;

// Linux keeps the tiles of a process only if it asked for them once, for all its threads. It
// refuses where an alternate signal stack is too small to hold them.
bool may_use_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int kRequestPermission = 0x1023;
  constexpr int kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return true;
#endif
}

}  // namespace

const char* missing_scalar() { return ""; }

const char* missing_avx2() {
  const Registers one = cpuid(1, 0);
  const Registers seven = cpuid(7, 0);
  if (!bit(one.ecx, 28) || !bit(seven.ebx, 5)) return "this CPU has no AVX2";
  if (!bit(one.ecx, 12)) return "this CPU has no FMA";
  if ((saved_states() & kYmmState) != kYmmState) {
    return "the operating system does not save AVX registers";
  }
  return "";
}

const char* missing_avx2vnni() {
  const char* less = missing_avx2();
  if (*less != '\0') return less;
  return bit(cpuid(7, 1).eax, 4) ? "" : "this CPU has no AVX-VNNI";
}

const char* missing_avx512() {
  const char* less = missing_avx2();
  if (*less != '\0') return less;
  const uint32_t ebx = cpuid(7, 0).ebx;
  if (!bit(ebx, 16)) return "this CPU has no AVX-512 F";
  if (!bit(ebx, 17)) return "this CPU has no AVX-512 DQ";
  if (!bit(ebx, 30)) return "this CPU has no AVX-512 BW";
  if (!bit(ebx, 31)) return "this CPU has no AVX-512 VL";
  if ((saved_states() & kZmmState) != kZmmState) {
    return "the operating system does not save AVX-512 registers";
  }
  return "";
}

const char* missing_avx512vnni() {
  const char* less = missing_avx512();
  if (*less != '\0') return less;
  return bit(cpuid(7, 0).ecx, 11) ? "" : "this CPU has no AVX-512 VNNI";
}

const char* missing_amx() {
  const char* less = missing_avx512vnni();
  if (*less != '\0') return less;
  if (!bit(cpuid(7, 1).eax, 5)) return "this CPU has no AVX-512 BF16";
  const uint32_t edx = cpuid(7, 0).edx;
  if (!bit(edx, 24)) return "this CPU has no AMX tiles";
  if (!bit(edx, 22)) return "this CPU has no AMX BF16";
  if (!bit(edx, 25)) return "this CPU has no AMX INT8";
  if ((saved_states() & kTileState) != kTileState) {
    return "the operating system does not save AMX tiles";
  }
  return may_use_tiles() ? "" : "the operating system refuses AMX tiles to this process";
}

}  // namespace gruengine
