// SPDX-License-Identifier: MIT
// Tables of an embedding kept in the model's compute type; what is looked up is float32.
#pragma once

#include "engine/op.h"

namespace gruengine {

// Rows of `inner` values. int8: a float scale before each row.
struct StoredRows {
  const char* data = nullptr;
  int64_t inner = 0;
  bool scaled = false;

  bool used() const { return data != nullptr; }
  static int64_t row_bytes(int64_t inner, bool scaled);
  // to[n, inner] = rows[i] for each i.
  void look_up(const int64_t* rows, int64_t n, float* to) const;
};

// The table that input 0 of a Gather along `axis` is, or nothing where it stays float32.
StoredRows stored_rows(const NodeBuilder& b, int axis);

}  // namespace gruengine
