// SPDX-License-Identifier: MIT
#include "engine/buffer.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "gruengine/error.h"

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace gruengine {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

// The system may promise more memory than it has and end the process later: this is refused now.
bool fits_machine(size_t bytes) {
#ifdef __linux__
  static const auto machine =
      static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes <= machine;
#else
  return bytes <= (size_t{1} << 40);
#endif
}

std::atomic<const Allocator*> chosen{nullptr};

}  // namespace

void set_allocator(const Allocator& allocator) {
  if ((allocator.allocate == nullptr) != (allocator.release == nullptr)) {
    throw Error(ErrorCode::kInvalidArgument,
                "an allocator has only one of allocate and release; give both or neither");
  }
  // Never freed: memory may outlive every handle that knows of it.
  chosen.store(allocator.allocate == nullptr ? nullptr : new Allocator(allocator));
}

Buffer::Buffer(size_t bytes, bool huge) : size_(bytes), from_(chosen.load()) {
  if (bytes == 0) return;
  const size_t alignment = huge ? kHugePage : kAlignment;
  const size_t rounded = round_up(bytes, alignment);
  allocated_ = rounded;
  if (fits_machine(rounded)) {
    data_ = static_cast<char*>(from_ != nullptr ? from_->allocate(rounded, alignment, from_->user)
                                                : std::aligned_alloc(alignment, rounded));
  }
  if (data_ == nullptr) {
    throw Error(ErrorCode::kInvalidArgument,
                "not enough memory for " + std::to_string(bytes) + " bytes");
  }
#ifdef __linux__
  if (huge) madvise(data_, rounded, MADV_HUGEPAGE);
#endif
  std::memset(data_, 0, bytes);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      allocated_(std::exchange(other.allocated_, 0)),
      from_(other.from_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(allocated_, other.allocated_);
  std::swap(from_, other.from_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (from_ == nullptr) {
    std::free(data_);
  } else {
    from_->release(data_, allocated_, from_->user);
  }
}

char* Arena::take(int64_t bytes) {
  const size_t need = round_up(static_cast<size_t>(std::max<int64_t>(bytes, 1)), kAlignment);
  if (blocks_.empty() || used_ + need > blocks_.back().size()) {
    const size_t block = huge_ ? kHugePage : size_t{16} << 10;
    blocks_.emplace_back(round_up(need, block), huge_);
    used_ = 0;
  }
  char* at = blocks_.back().data() + used_;
  used_ += need;
  taken_ += static_cast<int64_t>(need);
  return at;
}

}  // namespace gruengine
