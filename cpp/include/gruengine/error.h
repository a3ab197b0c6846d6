// SPDX-License-Identifier: MIT
#pragma once

#include <stdexcept>
#include <string>

#include "gruengine/export.h"

namespace gruengine {

// What kind of mistake an Error reports; Python has one exception class for each.
enum class ErrorCode {
  kInvalidArgument,  // a value, shape or name the call does not allow
  kInvalidType,      // a dtype or layout the call does not allow
  kInvalidFile,      // a model file that breaks its format
  kUnsupported,      // a valid model or request that this version does not run
  kBusy,             // a stream used by two callers at once
  kIo,               // the operating system refused
  kInternal,         // a broken invariant: a bug in gruengine
  kInterrupted,      // a run was asked to stop
  kOverloaded,       // no room: a full pool or queue
  kDeadline,         // not done in the time given
  kClosed,           // a scheduler that was shut down
};

// Every error the library raises: what it got and what it allows, in one message.
class GRUENGINE_API Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace gruengine
