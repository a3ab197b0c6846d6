// SPDX-License-Identifier: MIT
#include "errors.h"

#include <Python.h>

#include <exception>
#include <new>

#include "gruengine/error.h"

namespace gruengine {
namespace {

const char* class_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "InvalidInputError";
    case ErrorCode::kInvalidType:
      return "InvalidTypeError";
    case ErrorCode::kInvalidFile:
      return "ModelFileError";
    case ErrorCode::kUnsupported:
      return "UnsupportedError";
    case ErrorCode::kBusy:
      return "StreamBusyError";
    case ErrorCode::kIo:
      return "FileAccessError";
    case ErrorCode::kOverloaded:
      return "Overloaded";
    case ErrorCode::kDeadline:
      return "DeadlineError";
    case ErrorCode::kClosed:
      return "SchedulerClosedError";
    case ErrorCode::kInterrupted:
    case ErrorCode::kInternal:
      break;
  }
  return "InternalError";
}

void raise(const char* name, const char* message) {
  if (PyErr_Occurred() != nullptr) return;  // a signal handler raised, which ended the run
  PyObject* module = PyImport_ImportModule("gruengine.errors");
  PyObject* type = module != nullptr ? PyObject_GetAttrString(module, name) : nullptr;
  if (type != nullptr) PyErr_SetString(type, message);
  Py_XDECREF(type);
  Py_XDECREF(module);
}

}  // namespace

void raise_python_error() {
  try {
    throw;
  } catch (const Error& error) {
    raise(class_of(error.code()), error.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    raise("InternalError", error.what());
  } catch (...) {
    raise("InternalError", "an unknown C++ exception");
  }
}

}  // namespace gruengine
