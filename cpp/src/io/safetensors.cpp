// SPDX-License-Identifier: MIT
#include "io/safetensors.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "gruengine/error.h"
#include "io/json.h"

namespace gruengine {
namespace {

// A tensor as the header states it.
struct Entry {
  std::string name;
  DType dtype = DType::kFloat32;
  std::optional<Form> form;  // of weights in fewer bits, whatever dtype says
  Dims dims;
  uint64_t begin = 0;
  uint64_t end = 0;
};

[[noreturn]] void refuse(const std::string& message) {
  throw Error(ErrorCode::kInvalidFile, message);
}

DType parse_dtype(const std::string& text, const std::string& what) {
  if (text == "F32") return DType::kFloat32;
  if (text == "I64") return DType::kInt64;
  if (text == "I32") return DType::kInt32;
  if (text == "BOOL") return DType::kBool;
  refuse(what + " has dtype " + quoted(text) + "; allowed: F32, I64, I32, BOOL, BF16, I8, U8");
}

void read_dtype(const std::string& text, const std::string& what, Entry& entry) {
  entry.form.reset();
  if (text == "BF16") {
    entry.form = Form::kBFloat16;
  } else if (text == "I8") {
    entry.form = Form::kInt8;
  } else if (text == "U8") {
    entry.form = Form::kNibbles;
  } else {
    entry.dtype = parse_dtype(text, what);
  }
}

int64_t bytes_of(const Entry& entry, const std::string& what) {
  if (!entry.form) return checked_bytes(entry.dims, entry.dtype, what);
  // An I8 or U8 element has as many bytes as a BOOL; twice as many must fit 63 bits too.
  const int64_t elements = checked_bytes(entry.dims, DType::kBool, what);
  checked_bytes(entry.dims, DType::kFloat32, what);
  return entry.form == Form::kBFloat16 ? elements * 2 : elements;
}

}  // namespace

std::vector<int64_t> parse_sizes(JsonReader& json, size_t limit, const std::string& what) {
  std::vector<int64_t> sizes;
  json.array([&] {
    const int64_t size = json.integer();
    if (size < 0 || sizes.size() == limit) {
      refuse(what + "; allowed: up to " + std::to_string(limit) + " integers >= 0");
    }
    sizes.push_back(size);
  });
  return sizes;
}

namespace {

Entry parse_entry(JsonReader& json, const std::string& name, uint64_t data_size) {
  const std::string what = "tensor " + quoted(name);
  if (name.find('\0') != std::string::npos) refuse(what + ": a name holds a zero character");
  Entry entry;
  entry.name = name;
  std::vector<int64_t> offsets;
  int found = 0;
  json.object([&](const std::string& key) {
    ++found;
    if (key == "dtype") {
      read_dtype(json.string(), what, entry);
    } else if (key == "shape") {
      entry.dims = parse_sizes(json, kMaxRank, "the shape of " + what);
    } else if (key == "data_offsets") {
      offsets = parse_sizes(json, 2, "the data_offsets of " + what);
    } else {
      refuse(what + " has " + quoted(key) + "; allowed: dtype, shape, data_offsets");
    }
  });
  if (found != 3) refuse(what + " needs dtype, shape and data_offsets");
  if (offsets.size() != 2 || offsets[0] > offsets[1] ||
      static_cast<uint64_t>(offsets[1]) > data_size) {
    refuse("the data_offsets of " + what + " are not two in order, up to " +
           std::to_string(data_size));
  }
  const int64_t needed = bytes_of(entry, what);
  if (offsets[1] - offsets[0] != needed) {
    refuse(what + " needs " + std::to_string(needed) + " bytes, its data_offsets hold " +
           std::to_string(offsets[1] - offsets[0]));
  }
  entry.begin = static_cast<uint64_t>(offsets[0]);
  entry.end = static_cast<uint64_t>(offsets[1]);
  return entry;
}

void check_order(std::vector<Entry>& entries, uint64_t data_size) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t position = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != position) {
      refuse("the bytes of tensor " + quoted(entry.name) + " begin at " +
             std::to_string(entry.begin) +
             (entry.begin > position ? " and leave a hole after" : " and overlap") +
             " those that end at " + std::to_string(position));
    }
    position = entry.end;
  }
  if (position != data_size) {
    refuse("the tensors end at byte " + std::to_string(position) + " of " +
           std::to_string(data_size) + " bytes of data");
  }
}

std::string_view header_text(std::span<const uint8_t> bytes) {
  constexpr size_t kPrefix = 8;
  if (bytes.size() < kPrefix) {
    refuse("a safetensors file of " + std::to_string(bytes.size()) +
           " bytes; allowed are 8 or more");
  }
  uint64_t length = 0;
  for (size_t i = 0; i < kPrefix; ++i) length |= uint64_t{bytes[i]} << (8 * i);
  if (length > kMaxHeaderBytes) {
    refuse("not a safetensors file: a header of " + std::to_string(length) +
           " bytes; allowed are " + std::to_string(kMaxHeaderBytes));
  }
  if (length > bytes.size() - kPrefix) {
    refuse("the header says " + std::to_string(length) + " bytes, the file holds " +
           std::to_string(bytes.size() - kPrefix) + " after its length");
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kPrefix,
                              static_cast<size_t>(length));
  if (text.empty() || text[0] != '{') refuse("the header does not begin with '{'");
  return text;
}

}  // namespace

int64_t checked_bytes(const Dims& dims, DType dtype, const std::string& what) {
  int64_t bytes = size_of(dtype);
  bool empty = false;
  for (int64_t size : dims) {
    empty = empty || size == 0;
    if (size == 0) continue;
    if (bytes > std::numeric_limits<int64_t>::max() / size) {
      refuse("the shape of " + what + " is beyond 64 bits");
    }
    bytes *= size;
  }
  return empty ? 0 : bytes;
}

Safetensors parse_safetensors(std::span<const uint8_t> bytes) {
  const std::string_view text = header_text(bytes);
  const std::span<const uint8_t> data = bytes.subspan(8 + text.size());
  Safetensors result;
  std::vector<Entry> entries;
  JsonReader json(text, "the header");
  json.object([&](const std::string& name) {
    if (name == "__metadata__") {
      json.object([&](const std::string& key) {
        if (key == "gruengine_parts") {
          refuse(
              "a model with parts that ONNX Runtime runs; only Python opens these "
              "(gruengine.load), C and C++ open models converted without fallback");
        }
        result.metadata[key] = json.string();
      });
    } else {
      entries.push_back(parse_entry(json, name, data.size()));
    }
  });
  json.end();
  check_order(entries, data.size());
  for (Entry& entry : entries) {
    const uint8_t* begin = data.data() + entry.begin;
    if (entry.form) {
      result.stored[entry.name] = {*entry.form, std::move(entry.dims), begin};
      continue;
    }
    if (entry.dtype == DType::kBool &&
        std::any_of(begin, data.data() + entry.end, [](uint8_t byte) { return byte > 1; })) {
      refuse("tensor " + quoted(entry.name) + " is BOOL with bytes other than 0 and 1");
    }
    result.tensors[entry.name] = {entry.dtype, std::move(entry.dims), begin};
  }
  return result;
}

}  // namespace gruengine
