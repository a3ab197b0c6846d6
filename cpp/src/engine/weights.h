// SPDX-License-Identifier: MIT
// Constants in the form the kernels read: packed once, in few large blocks of memory.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/buffer.h"
#include "engine/low.h"

namespace gruengine {

// A matrix in panels (isa/table.h). Blocks hold nv vectors; the last may hold fewer.
struct PackedMatrix {
  const float* data = nullptr;
  int64_t k = 0;
  int64_t n = 0;
  int32_t nv = 0;
  int64_t block_stride = 0;
};

// Memory for packed weights and other derived constants, filled under a lock and never changed
// after; entries stay where they are.
class WeightStore {
 public:
  // `expected` is about how many bytes will come: decides whether huge pages are worth it.
  explicit WeightStore(int64_t expected) : arena_(expected) {}

  // The matrix kept under `key`, packed on the first call.
  const PackedMatrix& matrix(const std::string& key, int64_t k, int64_t n, int32_t nv, int width,
                             const WeightAt& at);
  // The matrix of a compute type below float32 kept under `key`, packed on the first call: see
  // pack_low(). Its rows fall into `parts`.
  const LowMatrix& low_matrix(const std::string& key, const LowType& low,
                              const std::vector<int64_t>& parts, int64_t n, int32_t nv, int width,
                              const WeightAt& at);
  // The floats kept under `key`: `size` zeros handed to `fill` on the first call.
  const float* floats(const std::string& key, int64_t size,
                      const std::function<void(float*)>& fill);
  int64_t bytes() const { return arena_.bytes(); }

 private:
  std::mutex mutex_;
  Arena arena_;
  std::map<std::string, PackedMatrix> matrices_;
  std::map<std::string, LowMatrix> low_matrices_;
  std::map<std::string, const float*> floats_;
};

}  // namespace gruengine
