// SPDX-License-Identifier: MIT
// Values written to places that an input names.
#include <algorithm>
#include <cstring>

#include "ops/loops.h"

namespace gruengine {
namespace {

enum class Join { kNone, kAdd, kMul, kMin, kMax };

Join join_of(const NodeBuilder& b) {
  const std::string name = b.attr("reduction", "none");
  if (name == "none") return Join::kNone;
  if (b.in(0).dtype == DType::kBool) b.expect(0, DType::kFloat32);
  if (name == "add") return Join::kAdd;
  if (name == "mul") return Join::kMul;
  if (name == "min") return Join::kMin;
  if (name == "max") return Join::kMax;
  b.refuse(ErrorCode::kInvalidArgument,
           "reduction is '" + name + "'; it must be none, add, mul, min or max");
}

struct Scatter {
  Slot data, indices, updates, y;
  int64_t bytes;          // of the data
  int64_t rows, k, size;  // indices [rows, k], each for `size` elements
  Dims dims, strides;     // of the first k axes of the data
  DType dtype, index_dtype;
  Join join;

  int64_t index(const Frame& f, int64_t i) const {
    return index_dtype == DType::kInt64 ? f.at<int64_t>(indices)[i] : f.at<int32_t>(indices)[i];
  }

  int64_t place(const Frame& f, int64_t row, const std::string& who) const {
    int64_t at = 0;
    for (int64_t j = 0; j < k; ++j) {
      const int64_t size_here = dims[static_cast<size_t>(j)];
      int64_t i = index(f, row * k + j);
      if (i < -size_here || i >= size_here) {
        throw Error(ErrorCode::kInvalidArgument, who + ": index " + std::to_string(i) + " at row " +
                                                     std::to_string(row) + "; the axis has " +
                                                     std::to_string(size_here) + " places");
      }
      i += i < 0 ? size_here : 0;
      at += i * strides[static_cast<size_t>(j)];
    }
    return at;
  }

  template <class T>
  void write(const T* from, T* to) const {
    for (int64_t i = 0; i < size; ++i) {
      switch (join) {
        case Join::kNone:
          to[i] = from[i];
          break;
        case Join::kAdd:
          to[i] = static_cast<T>(to[i] + from[i]);
          break;
        case Join::kMul:
          to[i] = static_cast<T>(to[i] * from[i]);
          break;
        case Join::kMin:
          to[i] = std::min(to[i], from[i]);
          break;
        case Join::kMax:
          to[i] = std::max(to[i], from[i]);
          break;
      }
    }
  }

  template <class T>
  void run(const Frame& f, const std::string& who) const {
    std::memcpy(f.at<char>(y), f.at<char>(data), static_cast<size_t>(bytes));
    for (int64_t row = 0; row < rows; ++row) {
      write(f.at<T>(updates) + row * size, f.at<T>(y) + place(f, row, who));
    }
  }
};

// Axes of the data behind those that are indexed may be time, where the updates agree.
Time scatter_time(const NodeBuilder& b, int k, int index_rank) {
  check_data(b, {0, 1, 2});
  Time data = b.in(0).time;
  Time updates = b.in(2).time;
  const bool data_fits = data.kind != Time::kFrames || data.axis >= k;
  const bool updates_fit = updates.kind != Time::kFrames || updates.axis >= index_rank - 1;
  if (!data_fits || !updates_fit || b.in(1).time.kind != Time::kConstant) {
    b.mixes_time("writes to places along the time axis");
    return {};
  }
  if (updates.kind == Time::kFrames) updates.axis += k - (index_rank - 1);
  return merge_times(b, data, updates);
}

}  // namespace

void plan_scatter_nd(NodeBuilder& b) {
  const Value data = b.in(0);
  const Value indices = b.in(1);
  if (indices.dtype != DType::kInt64) b.expect(1, DType::kInt32);
  const Value updates = b.expect(2, data.dtype);
  const int64_t k = indices.dims.empty() ? -1 : indices.dims.back();
  const auto rank = static_cast<int64_t>(data.dims.size());
  Dims needed;
  if (k >= 0 && k <= rank) {
    needed.assign(indices.dims.begin(), indices.dims.end() - 1);
    needed.insert(needed.end(), data.dims.begin() + k, data.dims.end());
  }
  if (k < 0 || k > rank || updates.dims != needed) {
    b.refuse(ErrorCode::kInvalidArgument, "data " + to_string(data.dims) + ", indices " +
                                              to_string(indices.dims) + " and updates " +
                                              to_string(updates.dims) + " do not fit");
  }
  const Join join = join_of(b);
  const Time time = scatter_time(b, static_cast<int>(k), static_cast<int>(indices.dims.size()));
  const Dims strides = row_major(data.dims);
  const Scatter scatter{data.slot,
                        indices.slot,
                        updates.slot,
                        b.output(0, data.dtype, data.dims, time),
                        count(data.dims) * size_of(data.dtype),
                        product(indices.dims, 0, indices.dims.size() - 1),
                        k,
                        product(data.dims, static_cast<size_t>(k), data.dims.size()),
                        data.dims,
                        strides,
                        data.dtype,
                        indices.dtype,
                        join};
  b.emit([scatter, who = label(b)](const Frame& f) {
    switch (scatter.dtype) {
      case DType::kFloat32:
        return scatter.run<float>(f, who);
      case DType::kInt64:
        return scatter.run<int64_t>(f, who);
      case DType::kInt32:
        return scatter.run<int32_t>(f, who);
      default:
        return scatter.run<uint8_t>(f, who);
    }
  });
}

}  // namespace gruengine
