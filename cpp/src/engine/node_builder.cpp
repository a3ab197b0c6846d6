// SPDX-License-Identifier: MIT
#include <cstring>

#include "engine/op.h"
#include "engine/planner.h"

namespace gruengine {

int64_t count(const Dims& dims) {
  int64_t product = 1;
  for (const int64_t dim : dims) {
    if (dim < 0 || __builtin_mul_overflow(product, dim, &product) || product > (int64_t{1} << 46)) {
      throw Error(ErrorCode::kInvalidArgument, "shape " + to_string(dims) + " is not possible");
    }
  }
  return product;
}

std::string to_string(const Dims& dims) {
  std::string text = "[";
  for (size_t i = 0; i < dims.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(dims[i]);
  }
  return text + "]";
}

const Value& NodeBuilder::in(size_t i) const {
  if (!has(i)) refuse(ErrorCode::kInvalidFile, "needs input " + std::to_string(i));
  return planner_.value(node_, node_.inputs[i]);
}

namespace {

template <class T>
T attribute(const NodeBuilder& builder, const std::string& name, T otherwise) {
  const auto& attributes = builder.node().attributes;
  const auto found = attributes.find(name);
  if (found == attributes.end()) return otherwise;
  if (const T* value = std::get_if<T>(&found->second)) return *value;
  // An empty list has no type of its own: the file says it as integers.
  const auto* list = std::get_if<std::vector<int64_t>>(&found->second);
  if (list != nullptr && list->empty()) return otherwise;
  builder.refuse(ErrorCode::kInvalidFile, "attribute '" + name + "' has the wrong type");
}

}  // namespace

int64_t NodeBuilder::attr(const std::string& name, int64_t otherwise) const {
  return attribute(*this, name, otherwise);
}
double NodeBuilder::attr(const std::string& name, double otherwise) const {
  return attribute(*this, name, otherwise);
}
std::string NodeBuilder::attr(const std::string& name, const char* otherwise) const {
  return attribute<std::string>(*this, name, otherwise);
}
std::vector<int64_t> NodeBuilder::attr_ints(const std::string& name) const {
  return attribute<std::vector<int64_t>>(*this, name, {});
}
std::vector<double> NodeBuilder::attr_floats(const std::string& name) const {
  return attribute<std::vector<double>>(*this, name, {});
}
std::vector<std::string> NodeBuilder::attr_strings(const std::string& name) const {
  return attribute<std::vector<std::string>>(*this, name, {});
}

std::vector<int64_t> NodeBuilder::ints(size_t i) const {
  const Value& value = in(i);
  if (value.constant == nullptr) {
    refuse(ErrorCode::kUnsupported,
           "input '" + node_.inputs[i] + "' depends on data; it must follow from shapes alone");
  }
  const auto n = static_cast<size_t>(count(value.dims));
  if (value.dtype == DType::kInt64) {
    const auto* at = static_cast<const int64_t*>(value.constant);
    return {at, at + n};
  }
  if (value.dtype == DType::kInt32) {
    const auto* at = static_cast<const int32_t*>(value.constant);
    return {at, at + n};
  }
  refuse(ErrorCode::kInvalidArgument, "input '" + node_.inputs[i] + "' is " + name_of(value.dtype) +
                                          "; it must be int64 or int32");
}

double NodeBuilder::scalar(size_t i) const {
  const Value& value = in(i);
  if (value.constant == nullptr || count(value.dims) != 1) {
    refuse(ErrorCode::kUnsupported, "input '" + node_.inputs[i] + "' must be one constant number");
  }
  switch (value.dtype) {
    case DType::kFloat32:
      return *static_cast<const float*>(value.constant);
    case DType::kInt64:
      return static_cast<double>(*static_cast<const int64_t*>(value.constant));
    case DType::kInt32:
      return *static_cast<const int32_t*>(value.constant);
    case DType::kBool:
      return *static_cast<const uint8_t*>(value.constant);
  }
  return 0;
}

const Value& NodeBuilder::expect(size_t i, DType dtype) const {
  const Value& value = in(i);
  if (value.dtype != dtype) {
    refuse(ErrorCode::kInvalidArgument, "input '" + node_.inputs[i] + "' is " +
                                            name_of(value.dtype) + "; it must be " +
                                            name_of(dtype));
  }
  return value;
}

const Value& NodeBuilder::expect_rank(size_t i, size_t rank) const {
  const Value& value = in(i);
  if (value.dims.size() != rank) {
    refuse(ErrorCode::kInvalidArgument, "input '" + node_.inputs[i] + "' has shape " +
                                            to_string(value.dims) + "; it must have " +
                                            std::to_string(rank) + " axes");
  }
  return value;
}

int NodeBuilder::axis(int64_t axis, size_t rank) const {
  const auto n = static_cast<int64_t>(rank);
  if (axis < -n || axis >= n) {
    refuse(ErrorCode::kInvalidArgument,
           "axis " + std::to_string(axis) + " of a value with " + std::to_string(n) + " axes");
  }
  return static_cast<int>(axis < 0 ? axis + n : axis);
}

Slot NodeBuilder::output(size_t i, DType dtype, const Dims& dims, Time time) {
  const int64_t bytes = count(dims) * size_of(dtype);
  if (!wants(i)) return scratch(bytes);
  Value value;
  value.dtype = dtype;
  value.dims = dims;
  value.time = time;
  if (planner_.fold_.on) {
    char* memory = planner_.fold_memory(bytes);
    value.slot = planner_.constant_slot(memory, bytes);
    value.constant = memory;
    value.of_model = planner_.fold_.of_model;
    value.sized_by_time = planner_.fold_.sized_by_time;
  } else {
    value.slot = planner_.arena_slot(bytes);
  }
  planner_.define(node_.outputs[i], value);
  return value.slot;
}

void NodeBuilder::view(size_t i, size_t in_index, const Dims& dims, Time time) {
  Value value = in(in_index);
  if (count(dims) != count(value.dims)) {
    refuse(ErrorCode::kInvalidArgument,
           "cannot see shape " + to_string(value.dims) + " as " + to_string(dims));
  }
  if (!wants(i)) return;
  value.dims = dims;
  value.time = time;
  value.sized_by_time = value.sized_by_time || planner_.fold_.sized_by_time;
  planner_.define(node_.outputs[i], value);
}

void* NodeBuilder::constant_output(size_t i, DType dtype, const Dims& dims, bool sized_by_time) {
  const int64_t bytes = count(dims) * size_of(dtype);
  Value value;
  value.dtype = dtype;
  value.dims = dims;
  char* memory = planner_.fold_memory(bytes);
  value.slot = planner_.constant_slot(memory, bytes);
  value.constant = memory;
  value.sized_by_time = sized_by_time || planner_.fold_.sized_by_time;
  if (wants(i)) planner_.scopes_.back()[node_.outputs[i]] = value;
  return memory;
}

int64_t NodeBuilder::marked_frames() const { return planner_.request_.marked; }

bool NodeBuilder::many_rows() const { return planner_.request_.rows; }

Slot NodeBuilder::scratch(int64_t bytes) {
  if (!planner_.fold_.on) return planner_.arena_slot(bytes);
  planner_.folded_ += bytes;
  planner_.plan_->temporaries.emplace_back(static_cast<size_t>(bytes));
  return planner_.constant_slot(planner_.plan_->temporaries.back().data(), bytes);
}

void NodeBuilder::emit(std::function<void(const Frame&)> run) {
  if (planner_.fold_.on) {
    run(Frame{planner_.fold_slots_.data(), 1});
  } else {
    planner_.plan_->steps.push_back({std::move(run)});
  }
}

void NodeBuilder::emit_recurrent(const std::shared_ptr<const RecurrentPlan>& layer) {
  planner_.add_recurrent(layer);
}

WeightStore& NodeBuilder::store(const Value& constant) const {
  return constant.of_model ? planner_.source_.weights : planner_.plan_->weights;
}

const PackedMatrix& NodeBuilder::packed(size_t i, int64_t k, int64_t n, int64_t row_stride,
                                        int64_t col_stride, int64_t offset) const {
  const Value& value = expect(i, DType::kFloat32);
  const int64_t elements = count(value.dims);
  if (value.constant == nullptr ||
      (k > 0 && n > 0 && offset + (k - 1) * row_stride + (n - 1) * col_stride >= elements)) {
    refuse(ErrorCode::kInternal, "packs what is not there");
  }
  const auto* data = static_cast<const float*>(value.constant) + offset;
  std::string key = "m";
  for (const int64_t part :
       {static_cast<int64_t>(reinterpret_cast<intptr_t>(data)), k, n, row_stride, col_stride}) {
    key += ":" + std::to_string(part);
  }
  return store(value).matrix(key, k, n, 4, kernels().width, [=](int64_t row, int64_t column) {
    return data + row * row_stride + column * col_stride;
  });
}

const PackedMatrix& NodeBuilder::packed(
    size_t i, int64_t k, int64_t n, const std::string& form,
    const std::function<int64_t(int64_t, int64_t)>& place) const {
  const Value& value = expect(i, DType::kFloat32);
  const auto* data = static_cast<const float*>(value.constant);
  if (data == nullptr) refuse(ErrorCode::kInternal, "packs what is not there");
  const std::string key = form + ":" + std::to_string(reinterpret_cast<intptr_t>(data)) + ":" +
                          std::to_string(k) + ":" + std::to_string(n);
  return store(value).matrix(key, k, n, 4, kernels().width, [&](int64_t row, int64_t column) {
    return data + place(row, column);
  });
}

const float* NodeBuilder::derived(size_t i, const std::string& form, int64_t size,
                                  const std::function<void(const float*, float*)>& fill) const {
  const Value& value = expect(i, DType::kFloat32);
  const auto* data = static_cast<const float*>(value.constant);
  if (data == nullptr) refuse(ErrorCode::kInternal, "derives from what is not there");
  const std::string key =
      form + ":" + std::to_string(reinterpret_cast<intptr_t>(data)) + ":" + std::to_string(size);
  return store(value).floats(key, size, [&](float* to) { fill(data, to); });
}

const float* NodeBuilder::padded(size_t i, int64_t n, int64_t stride, int64_t offset) const {
  const Value& value = expect(i, DType::kFloat32);
  if (value.constant == nullptr || (n > 0 && offset + (n - 1) * stride >= count(value.dims))) {
    refuse(ErrorCode::kInternal, "pads what is not there");
  }
  const auto* data = static_cast<const float*>(value.constant) + offset;
  const int64_t width = kernels().width;
  const std::string key = "p:" + std::to_string(reinterpret_cast<intptr_t>(data)) + ":" +
                          std::to_string(n) + ":" + std::to_string(stride);
  return store(value).floats(key, (n + width - 1) / width * width, [=](float* to) {
    for (int64_t j = 0; j < n; ++j) to[j] = data[j * stride];
  });
}

const KernelTable& NodeBuilder::kernels() const { return planner_.source_.kernels; }

const LowType* NodeBuilder::low() const {
  return planner_.fold_.on ? nullptr : planner_.source_.low;
}
const LowType* NodeBuilder::low_convolutions() const {
  return planner_.fold_.on ? nullptr : planner_.source_.low_convolutions;
}
int NodeBuilder::threads() const { return planner_.source_.threads; }

bool NodeBuilder::stateful() const { return planner_.request_.stateful; }

Slot NodeBuilder::carry(const std::string& suffix, const Dims& dims, const void* initial) {
  std::string name = node_.name;
  if (name.empty()) {
    for (const std::string& output : node_.outputs) {
      if (name.empty()) name = output;
    }
  }
  return planner_.state_slot(name + suffix, DType::kFloat32, dims, initial);
}

bool NodeBuilder::lengths_given() const { return planner_.request_.lengths; }
Slot NodeBuilder::lengths() const { return planner_.lengths_slot_; }

void NodeBuilder::count_recurrent(bool over_time, bool carried) {
  ++planner_.plan_->recurrent;
  if (over_time) ++planner_.plan_->over_time;
  if (carried) ++planner_.plan_->carried;
}

Slot NodeBuilder::zeros(int64_t floats) {
  const int64_t bytes = count({floats}) * int64_t{sizeof(float)};
  // The streaming analysis never runs: sizes that a file merely claims cost nothing there.
  if (marked_frames() > 0) return planner_.constant_slot(nullptr, bytes);
  const float* memory =
      planner_.plan_->weights.floats("zeros:" + std::to_string(floats), floats, [](float*) {});
  return planner_.constant_slot(const_cast<float*>(memory), bytes);
}

void NodeBuilder::mixes_time(const std::string& why) const {
  planner_.fail_frames(node_.name.empty() ? node_.op : node_.op + " '" + node_.name + "'", why);
}

Time NodeBuilder::broadcast_time(const std::vector<size_t>& inputs, size_t out_rank) const {
  Time time;
  for (const size_t i : inputs) {
    const Value& value = in(i);
    if (value.constant != nullptr && value.time.kind != Time::kFrames) {
      // Shape arithmetic is harmless; the number of frames beside data is not.
      if (value.sized_by_time && !planner_.fold_.on) {
        mixes_time("uses the number of frames as data");
      }
      continue;
    }
    Time other = value.time;
    if (other.kind == Time::kFrames) {
      other.axis += static_cast<int>(out_rank - value.dims.size());
    }
    if (other.kind == Time::kConstant || other == time) continue;
    if (time.kind == Time::kConstant) {
      time = other;
    } else if (time.kind != other.kind) {
      mixes_time("combines single frames with the last value of a series");
      time = frames(std::max(time.axis, other.axis));
    } else {
      mixes_time("combines two values whose time axes do not line up");
    }
  }
  return time;
}

Time NodeBuilder::time_along(size_t i, int axis, const char* what) const {
  const Time time = in(i).time;
  if (time.kind == Time::kFrames && time.axis == axis) mixes_time(what);
  return time;
}

void NodeBuilder::refuse(ErrorCode code, const std::string& what) const {
  throw Error(code, node_.op + (node_.name.empty() ? "" : " '" + node_.name + "'") + ": " + what);
}

}  // namespace gruengine
