// SPDX-License-Identifier: MIT
// Products in bfloat16, int8 and int4 of one instruction set; compiled once for each row of
// cmake/isa.cmake. The only symbol that leaves is gruengine::<isa>::low_table.
#include GRU_VEC
#include GRU_DOT

#include "kernels/functions.h"
#include "kernels/int4.h"
#include "kernels/low_gemm.h"
#include "kernels/low_prepare.h"
#include "kernels/low_step.h"
#include "kernels/low_tile.h"
#include "kernels/math.h"

#include "cells/gru.h"
#include "cells/lstm.h"
#include "cells/rnn.h"

namespace gruengine {
namespace GRU_ISA {

extern const LowTable low_table;

const LowTable low_table = {
#ifdef GRU_OWN_BFLOAT16
    {
        2,
        2,
        4,
        2,
        0,
        false,
        &prepare_bfloat16,
        &low_gemm<Bfloat16Weights>,
        {
#define GRU_CELL(name, Cell) &low_step<Cell, Bfloat16Weights>,
#include "cells/cells.inc"
#undef GRU_CELL
        },
    },
#else
    {},  // those of the base
#endif
    {
        4,
        4,
        1,
        1,
        kZeroPoint,
        true,
        &prepare_int8,
        &low_gemm<Int8Weights>,
        {
#define GRU_CELL(name, Cell) &low_step<Cell, Int8Weights>,
#include "cells/cells.inc"
#undef GRU_CELL
        },
    },
    {
        8,
        kSection,
        1,
        1,
        0,
        true,
        &prepare_int4,
        &int4_gemm,
        {},
        kSection,
    },
};

}  // namespace GRU_ISA
}  // namespace gruengine
