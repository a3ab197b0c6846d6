// SPDX-License-Identifier: MIT
// The kernels of training of one instruction set; compiled once for each that has float kernels of
// its own. The only symbol that leaves is gruengine::<isa>::train_table.
#include GRU_VEC

#include "kernels/functions.h"
#include "kernels/gemm.h"
#include "kernels/loss.h"
#include "kernels/math.h"
#include "kernels/products.h"
#include "kernels/slopes.h"
#include "kernels/step.h"
#include "kernels/train_cells.h"
#include "kernels/train_product.h"
#include "kernels/update.h"

#include "cells/gru.h"
#include "cells/lstm.h"
#include "cells/rnn.h"

#include "isa/train_table.h"

namespace gruengine {
namespace GRU_ISA {

extern const TrainTable train_table;

const TrainTable train_table = {
    &product,
    {
#define GRU_CELL(name, Cell) &cell_forward<Cell>,
#include "cells/cells.inc"
#undef GRU_CELL
    },
    {
#define GRU_CELL(name, Cell) &cell_backward<Cell>,
#include "cells/cells.inc"
#undef GRU_CELL
    },
    &add_rows,
    &add_row_products,
    &cross_entropy,
    {&update<SgdRule>, &update<RmspropRule>, &update<AdamRule>},
};

}  // namespace GRU_ISA
}  // namespace gruengine
