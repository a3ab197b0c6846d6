// SPDX-License-Identifier: MIT
// All kernels of one instruction set; compiled once for each row of cmake/isa.cmake.
// GRU_VEC names the vector type. The only symbol that leaves is gruengine::<isa>::table.
#include GRU_VEC

#include "kernels/elementwise.h"
#include "kernels/functions.h"
#include "kernels/gemm.h"
#include "kernels/math.h"
#include "kernels/products.h"
#include "kernels/rows.h"
#include "kernels/step.h"

#include "cells/gru.h"
#include "cells/lstm.h"
#include "cells/rnn.h"

#define GRU_STRING_(x) #x
#define GRU_STRING(x) GRU_STRING_(x)

namespace gruengine {
namespace GRU_ISA {

extern const KernelTable table;

const KernelTable table = {
    GRU_STRING(GRU_ISA),
    Vec::kWidth,
    &gemm,
    {
#define GRU_CELL(name, Cell) &step<Cell>,
#include "cells/cells.inc"
#undef GRU_CELL
    },
    &map,
    &combine,
    &reduce,
    &softmax,
    &layer_norm,
    nullptr,
    nullptr,
};

}  // namespace GRU_ISA
}  // namespace gruengine
