// SPDX-License-Identifier: MIT
#include "io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <system_error>

#include "gruengine/error.h"
#include "io/json.h"

namespace gruengine {
namespace {

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw Error(ErrorCode::kIo, "cannot read " + quoted(path) + ": " + why);
}

std::string reason(int code) { return std::system_category().message(code); }

struct Descriptor {
  int value;
  ~Descriptor() {
    if (value >= 0) close(value);
  }
};

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  if (path.find('\0') != std::string::npos) refuse(path, "a path without zero bytes is allowed");
  // Without O_NONBLOCK a named pipe would wait for a writer.
  Descriptor file{-1};
  do {
    file.value = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (file.value < 0 && errno == EINTR);
  if (file.value < 0) refuse(path, reason(errno));
  struct stat info{};
  if (fstat(file.value, &info) != 0) refuse(path, reason(errno));
  if (!S_ISREG(info.st_mode)) refuse(path, "not a regular file");
  if (info.st_size < 0 ||
      static_cast<uint64_t>(info.st_size) > std::numeric_limits<size_t>::max() / 2) {
    refuse(path, "too large for this machine");
  }
  if (info.st_size == 0) return;  // an empty mapping is not allowed
  size_ = static_cast<size_t>(info.st_size);
  void* address = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.value, 0);
  if (address == MAP_FAILED) refuse(path, reason(errno));
  data_ = static_cast<const uint8_t*>(address);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_);
}

}  // namespace gruengine
