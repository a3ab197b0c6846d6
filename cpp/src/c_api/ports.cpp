// SPDX-License-Identifier: MIT
#include <algorithm>

#include "c_api/handles.h"

namespace gruengine::c_api {

static_assert(static_cast<int>(DType::kFloat32) == GRU_FLOAT32 &&
              static_cast<int>(DType::kInt64) == GRU_INT64 &&
              static_cast<int>(DType::kInt32) == GRU_INT32 &&
              static_cast<int>(DType::kBool) == GRU_BOOL);

void Ports::add(const Port& port) {
  auto kept = std::make_unique<Kept>();
  kept->name = port.name;
  for (const Dim& dim : port.shape) {
    kept->dims.push_back(dim.symbol.empty() ? dim.value : -1);
    kept->names.push_back(dim.symbol);
  }
  for (const std::string& symbol : kept->names) {
    kept->symbols.push_back(symbol.empty() ? nullptr : symbol.c_str());
  }
  kept->port = {kept->name.c_str(),
                static_cast<gru_dtype>(port.dtype),
                static_cast<int32_t>(kept->dims.size()),
                kept->dims.data(),
                kept->symbols.data(),
                -1,
                -1,
                -1};
  ports_.push_back(std::move(kept));
}

void Ports::add(const StepPort& port) {
  auto kept = std::make_unique<Kept>();
  kept->name = port.name;
  kept->dims = port.dims;
  kept->symbols.assign(port.dims.size(), nullptr);
  kept->port = {kept->name.c_str(),
                static_cast<gru_dtype>(port.dtype),
                static_cast<int32_t>(kept->dims.size()),
                kept->dims.data(),
                kept->symbols.data(),
                port.time_axis,
                -1,
                port.count};
  ports_.push_back(std::move(kept));
}

void Ports::add(const PoolPort& port) {
  add(StepPort{port.name, port.dtype, port.dims, port.time_axis, port.count});
  ports_.back()->port.row_axis = port.row_axis;
}

std::vector<ConstView> views_of(const gru_array* arrays, size_t count) {
  if (count > 0) need(arrays, "inputs");
  std::vector<ConstView> views;
  for (size_t i = 0; i < count; ++i) {
    const gru_array& array = arrays[i];
    const std::string what = "inputs[" + std::to_string(i) + "]";
    if (gru_dtype_size(array.dtype) == 0) {
      throw Error(ErrorCode::kInvalidType, what + " has dtype " + std::to_string(array.dtype) +
                                               "; GRU_FLOAT32 to GRU_BOOL are allowed");
    }
    if (array.rank < 0 || array.rank > 64 || (array.rank > 0 && array.dims == nullptr)) {
      throw Error(ErrorCode::kInvalidArgument, what + " has rank " + std::to_string(array.rank) +
                                                   (array.dims == nullptr ? " and no dims" : "") +
                                                   "; it must be 0 to 64");
    }
    const Dims dims(array.dims, array.dims + array.rank);
    for (const int64_t size : dims) {
      if (size < 0) {
        throw Error(ErrorCode::kInvalidArgument,
                    what + " has the size " + std::to_string(size) + "; it must be 0 or more");
      }
    }
    views.push_back({array.data, static_cast<DType>(array.dtype), dims});
  }
  return views;
}

std::map<std::string, int64_t> sizes_of(const gru_size* sizes, size_t count) {
  if (count > 0) need(sizes, "sizes");
  std::map<std::string, int64_t> given;
  for (size_t i = 0; i < count; ++i) {
    given[&need(sizes[i].symbol, "sizes[].symbol")] = sizes[i].value;
  }
  return given;
}

void hand_out(const std::vector<uint8_t>& bytes, void* buffer, size_t* size, const char* what) {
  const size_t room = buffer == nullptr ? 0 : need(size, "size");
  need(size, "size") = bytes.size();
  if (buffer == nullptr) return;
  if (room < bytes.size()) {
    throw Error(ErrorCode::kInvalidArgument,
                std::string("the ") + what + " has " + std::to_string(bytes.size()) +
                    " bytes; there is room for " + std::to_string(room));
  }
  std::copy(bytes.begin(), bytes.end(), static_cast<uint8_t*>(buffer));
}

void check_pointers(const Ports& inputs, const void* const* in, const Ports& outputs,
                    void* const* out) {
  need(in, "inputs");
  need(out, "outputs");
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (in[i] == nullptr) refuse_null("a pointer of inputs");
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (out[i] == nullptr) refuse_null("a pointer of outputs");
  }
}

}  // namespace gruengine::c_api
