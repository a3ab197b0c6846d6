// SPDX-License-Identifier: MIT
// What the kernel tests share: random data, packing as isa/table.h describes it, guarded memory.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <random>
#include <vector>

#include "isa/dispatch.h"
#include "isa/table.h"

namespace gruengine::test {

using Floats = std::vector<float>;

inline std::mt19937& random_engine() {
  static std::mt19937 engine(12345);
  return engine;
}

inline Floats random_floats(int64_t n, float range) {
  std::uniform_real_distribution<float> u(-range, range);
  Floats v(static_cast<size_t>(n));
  for (float& x : v) x = u(random_engine());
  return v;
}

// 64-byte aligned floats.
class Aligned {
 public:
  explicit Aligned(int64_t n, float fill = 0.0f)
      : size_(n),
        data_(static_cast<float*>(
            ::operator new[](static_cast<size_t>(n + 1) * 4, std::align_val_t(64)))) {
    for (int64_t i = 0; i < n; ++i) data_[i] = fill;
  }
  ~Aligned() { ::operator delete[](data_, std::align_val_t(64)); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  float* data() { return data_; }
  float& operator[](int64_t i) { return data_[i]; }
  int64_t size() const { return size_; }

 private:
  int64_t size_;
  float* data_;
};

constexpr float kGuard = 12345.75f;

// A [rows, n] matrix inside guard values: before it, behind it and between its rows, starting at an
// address that is no multiple of a vector.
class Guarded {
 public:
  Guarded(int64_t rows, int64_t n, int64_t gap)
      : rows_(rows), n_(n), ld_(n + gap), all_(static_cast<size_t>(rows * ld_ + 35), kGuard) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < n; ++i) row(r)[i] = 0.0f;
    }
  }
  Guarded(int64_t rows, int64_t n, int64_t gap, const Floats& values) : Guarded(rows, n, gap) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < n; ++i) row(r)[i] = values[static_cast<size_t>(r * n + i)];
    }
  }
  float* data() { return all_.data() + 17; }
  float* row(int64_t r) { return data() + r * ld_; }
  int64_t ld() const { return ld_; }
  bool intact() {
    for (size_t i = 0; i < all_.size(); ++i) {
      const int64_t at = static_cast<int64_t>(i) - 17;
      const bool inside = at >= 0 && at < rows_ * ld_ && at % ld_ < n_;
      if (!inside && all_[i] != kGuard) return false;
    }
    return true;
  }

 private:
  int64_t rows_, n_, ld_;
  Floats all_;
};

inline bool same_bits(const float* a, const float* b, int64_t n) {
  return std::memcmp(a, b, static_cast<size_t>(n) * sizeof(float)) == 0;
}

// b [k, n] (row-major) in panels of nv vectors of `width` floats.
struct Packed {
  Packed(const Floats& b, int64_t k, int64_t n, int nv, int width)
      : stride(k * nv * width), data(((n + nv * width - 1) / (nv * width)) * stride) {
    for (int64_t block = 0; block * nv * width < n; ++block) {
      const int64_t first = block * nv * width;
      const int64_t vectors = (n - first + width - 1) / width;
      const int64_t columns = (vectors < nv ? vectors : nv) * width;
      for (int64_t i = 0; i < k; ++i) {
        for (int64_t c = 0; c < columns && first + c < n; ++c) {
          data[block * stride + i * columns + c] = b[static_cast<size_t>(i * n + first + c)];
        }
      }
    }
  }
  int64_t stride;
  Aligned data;
};

// Calls f(table) for every instruction set this machine runs.
template <class F>
void for_each_isa(F f) {
  for (const IsaInfo& isa : isa_list()) {
    if (isa.supported) f(*isa.table);
  }
}

}  // namespace gruengine::test
