// SPDX-License-Identifier: MIT
// Products in bfloat16, int8 and int4 of tiles; compiled for the row `amx` of cmake/isa.cmake. The
// only symbol that leaves is gruengine::<isa>::low_table.
#include GRU_VEC
#include GRU_DOT

#include "kernels/amx_gemm.h"
#include "kernels/amx_step.h"
#include "kernels/amx_vectors.h"
#include "kernels/functions.h"
#include "kernels/int4.h"
#include "kernels/math.h"

#include "cells/gru.h"
#include "cells/lstm.h"
#include "cells/rnn.h"

namespace gruengine {
namespace GRU_ISA {

extern const LowTable low_table;

const LowTable low_table = {
    {
        2,
        Bfloat16Tiles::kMultiple,
        2,
        2,
        0,
        false,
        &prepare_tiled_bfloat16,
        &tiled_gemm<Bfloat16Tiles, TiledBfloat16Weights>,
        {
#define GRU_CELL(name, Cell) &tiled_step<Cell, Bfloat16Tiles, TiledBfloat16Weights>,
#include "cells/cells.inc"
#undef GRU_CELL
        },
    },
    {
        4,
        Int8Tiles::kMultiple,
        1,
        1,
        kZeroPoint,
        true,
        &prepare_tiled_int8,
        &tiled_gemm<Int8Tiles, TiledInt8Weights>,
        {
#define GRU_CELL(name, Cell) &tiled_step<Cell, Int8Tiles, TiledInt8Weights>,
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
