// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace gruengine {

// A whole regular file, mapped read-only. Writers must replace the file (as ModelSpec.save does),
// not change it in place: the mapping shows their changes.
class MappedFile {
 public:
  // Throws Error(kIo) when the operating system refuses or the path is no regular file.
  explicit MappedFile(const std::string& path);
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const uint8_t> bytes() const { return {data_, size_}; }

 private:
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace gruengine
