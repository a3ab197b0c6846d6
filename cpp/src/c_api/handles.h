// SPDX-License-Identifier: MIT
// What the handles of the C API are, and how errors leave it.
#pragma once

#include <exception>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gruengine/call.h"
#include "gruengine/gruengine.h"
#include "gruengine/model.h"
#include "gruengine/pool.h"
#include "gruengine/stream.h"

namespace gruengine::c_api {

// Keeps the message of the exception in flight for gru_last_error(); returns its status.
gru_status caught() noexcept;
gru_status refuse(gru_status status, const char* message) noexcept;

// Runs `body` and turns what it throws into a status.
template <class F>
gru_status guarded(F&& body) noexcept {
  try {
    body();
    return GRU_OK;
  } catch (...) {
    return caught();
  }
}

// Ports in the form of C; moving it keeps every pointer.
class Ports {
 public:
  void add(const Port& port);
  void add(const StepPort& port);
  void add(const PoolPort& port);
  template <class P>
  void add(const std::vector<P>& ports) {
    for (const P& port : ports) add(port);
  }
  size_t size() const { return ports_.size(); }
  const gru_port* at(size_t i) const { return i < ports_.size() ? &ports_[i]->port : nullptr; }

 private:
  struct Kept {
    std::string name;
    Dims dims;
    std::vector<std::string> names;
    std::vector<const char*> symbols;
    gru_port port{};
  };
  std::vector<std::unique_ptr<Kept>> ports_;
};

// A port of a handle; nullptr where there is none.
template <class Handle>
const gru_port* port_at(const Handle* handle, Ports Handle::* side, size_t i) {
  return handle == nullptr ? nullptr : (handle->*side).at(i);
}

gru_status status_of(ErrorCode code);

[[noreturn]] void refuse_null(const char* what);

// Handles and pointers that a caller must give.
template <class T>
T& need(T* pointer, const char* what) {
  if (pointer == nullptr) refuse_null(what);
  return *pointer;
}

std::vector<ConstView> views_of(const gru_array* arrays, size_t count);
std::map<std::string, int64_t> sizes_of(const gru_size* sizes, size_t count);
// Copies bytes to memory of the caller, who says in *size how much there is and hears how much it
// is.
void hand_out(const std::vector<uint8_t>& bytes, void* buffer, size_t* size, const char* what);
// Refuses NULL in place of an array.
void check_pointers(const Ports& inputs, const void* const* in, const Ports& outputs,
                    void* const* out);

// The part of a structure that the caller's version of it has; the rest stays as in `defaults`.
// Throws when its size is no size of a version.
void copy_struct(void* to, size_t own_size, const void* from, size_t their_size, const char* what);

}  // namespace gruengine::c_api

struct gru_model {
  std::shared_ptr<const gruengine::Model> model;
  gruengine::c_api::Ports inputs, outputs;
  std::string isa;
};

struct gru_stream {
  std::unique_ptr<gruengine::Stream> stream;
  gruengine::c_api::Ports inputs, outputs;
  explicit gru_stream(std::unique_ptr<gruengine::Stream> made);
};
