// SPDX-License-Identifier: MIT
#include <cstring>
#include <new>
#include <stdexcept>

#include "c_api/handles.h"

namespace gruengine::c_api {
namespace {

std::string& message() {
  thread_local std::string text;
  return text;
}

}  // namespace

gru_status status_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return GRU_INVALID_ARGUMENT;
    case ErrorCode::kInvalidType:
      return GRU_INVALID_TYPE;
    case ErrorCode::kInvalidFile:
      return GRU_INVALID_FILE;
    case ErrorCode::kUnsupported:
      return GRU_UNSUPPORTED;
    case ErrorCode::kBusy:
      return GRU_BUSY;
    case ErrorCode::kIo:
      return GRU_IO;
    case ErrorCode::kInterrupted:
      return GRU_INTERRUPTED;
    case ErrorCode::kOverloaded:
      return GRU_OVERLOADED;
    case ErrorCode::kDeadline:
      return GRU_DEADLINE;
    case ErrorCode::kClosed:
      return GRU_CLOSED;
    case ErrorCode::kInternal:
      break;
  }
  return GRU_INTERNAL;
}

gru_status refuse(gru_status status, const char* text) noexcept {
  try {
    message() = text;
  } catch (...) {
    message().clear();
  }
  return status;
}

gru_status caught() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    return refuse(status_of(error.code()), error.what());
  } catch (const std::bad_alloc&) {
    return refuse(GRU_NO_MEMORY, "not enough memory");
  } catch (const std::length_error&) {
    return refuse(GRU_NO_MEMORY, "a size is beyond what memory can hold");
  } catch (const std::exception& error) {
    return refuse(GRU_INTERNAL, error.what());
  } catch (...) {
    return refuse(GRU_INTERNAL, "an unknown exception");
  }
}

void refuse_null(const char* what) {
  throw Error(ErrorCode::kInvalidArgument, std::string(what) + " is NULL; it must be given");
}

void copy_struct(void* to, size_t own_size, const void* from, size_t their_size, const char* what) {
  if (their_size < sizeof(size_t) || their_size > 4096) {
    throw Error(ErrorCode::kInvalidArgument, std::string(what) + ".size is " +
                                                 std::to_string(their_size) +
                                                 "; it must be sizeof(" + what + ")");
  }
  std::memcpy(to, from, their_size < own_size ? their_size : own_size);
}

}  // namespace gruengine::c_api

const char* gru_last_error(void) noexcept { return gruengine::c_api::message().c_str(); }

const char* gru_status_name(gru_status status) noexcept {
  constexpr const char* kNames[] = {
      "ok",         "invalid argument", "invalid type", "invalid file", "unsupported",
      "busy",       "I/O error",        "internal",     "no memory",    "interrupted",
      "overloaded", "deadline",         "closed"};
  constexpr auto kCount = static_cast<gru_status>(sizeof kNames / sizeof *kNames);
  return status >= 0 && status < kCount ? kNames[status] : "unknown status";
}
