// SPDX-License-Identifier: MIT
// Products of tiles, woven with the work that follows them.
//
// A job is what the products are for (amx_step.h, amx_gemm.h). Its result is a panel: kChains
// vectors of sums for each row. It says
//   kGates, kChains         vectors of weights, and of sums
//   kSegments               products that add up: with x and with h, or one
//   chain(s, g)             which sum the products of gate g in segment s go to
//   segment(s, panel)       its rows and weights
//   start(panel, row, c)    where the float32 sums of chain c start from (not scaled)
//   weaves()                whether finish() has parts
//   rows_of_a_tile()        rows of a block for each of its tiles that are best finished while
//                           products run; with more, all products come first
//   finish(panel, row, sums, weave)   takes the sums of a row; calls weave.next() between the parts
//                           of its work
//   finish_rows(panel, row, rows, sums)   many rows at once; may write to sums
// Sums of panel p are finished while the products of panel p + 1 run: after each call of next() one
// product is issued.
#pragma once

#include "kernels/amx_tiles.h"
#include "kernels/base.h"

GRU_BEGIN_KERNELS

constexpr int kGroupRows = 2 * kTileRows;  // two blocks of rows share the weights they load

// One product of a panel: `tiles` tiles of each row with as many tiles of each gate.
struct TileSegment {
  LowRows rows;
  const uint8_t* head;     // of the block; int8: scales and starts come first
  const uint8_t* weights;  // groups of all gates
  int64_t tiles;
};

struct TileStart {
  const float* data;
  int64_t stride;  // bytes from row to row; 0: one for all
};

// The rows of a panel whose sums are complete.
struct DonePanel {
  int64_t panel = 0;
  int64_t row = 0;   // the next one to finish
  int64_t rows = 0;  // left
  float* sums;       // of `row`
};

// What one k of a pass multiplies: gates of segment S whose sums lie in [First, First + Count), for
// RB blocks of rows. `products` in order; next<i>() issues the i-th.
template <class Kind, class Job, int S, int First, int Count, int RB>
struct TileOps {
  const uint8_t* a;
  int64_t a_stride;
  const uint8_t* second;  // the rows of the second block
  const uint8_t* b;

  static constexpr int kSegment = S;
  static constexpr bool has(int gate) {
    return Job::chain(S, gate) >= First && Job::chain(S, gate) < First + Count;
  }
  static constexpr int count() {
    int n = 0;
    for (int g = 0; g < Job::kGates; ++g) n += has(g) ? 1 : 0;
    return n;
  }
  static constexpr int gate(int i) {
    for (int g = 0; g < Job::kGates; ++g) {
      if (has(g) && i-- == 0) return g;
    }
    return 0;
  }
  static constexpr int kProducts = count() * RB;

  template <int I>
  GRU_ALWAYS_INLINE void issue() const {
    constexpr int N = I / RB;  // of the gates of this pass
    constexpr int R = I % RB;
    constexpr int C = R * 2 + Job::chain(S, gate(N)) - First;
    constexpr int B = 6 + N % 2;
    if constexpr (N == 0) load_tile<4 + R>(R == 0 ? a : second, a_stride);
    if constexpr (R == 0) load_tile<B>(b + gate(N) * kTileBytes, Job::kGates * kTileBytes);
    Kind::template multiply<C, 4 + R, B>();
  }
};

// Issues the products of one k in order, one at each call of next().
template <class Ops>
class Weaver {
 public:
  static constexpr bool kWeaves = true;
  GRU_ALWAYS_INLINE explicit Weaver(const Ops& ops) : ops_(ops) {}

  GRU_ALWAYS_INLINE void next() {
    if (issued_ == 0) issue<0>();
    if (issued_ == 1) issue<1>();
    if (issued_ == 2) issue<2>();
    if (issued_ == 3) issue<3>();
    ++issued_;
  }
  // Whatever is left.
  GRU_ALWAYS_INLINE void rest() {
    if (issued_ <= 0) issue<0>();
    if (issued_ <= 1) issue<1>();
    if (issued_ <= 2) issue<2>();
    if (issued_ <= 3) issue<3>();
  }

 private:
  template <int I>
  GRU_ALWAYS_INLINE void issue() {
    if constexpr (I < Ops::kProducts) ops_.template issue<I>();
  }
  const Ops& ops_;
  int issued_ = 0;  // a constant wherever it is read, once all is inlined
};

struct NoProducts {
  static constexpr bool kWeaves = false;
};

template <class Job>
GRU_INLINE int64_t tiles_of_panel(const Job& job) {
  int64_t tiles = 0;
  for (int s = 0; s < Job::kSegments; ++s) tiles += job.segment(s, 0).tiles;
  return tiles;
}

template <class Kind, class Job>
class TileProduct {
 public:
  // `height` rows, 1 to 16, in every block.
  TileProduct(const Job& job, int height) : job_(job), height_(height) {}

  // The sums of one panel for RB blocks of rows from `row` and `second`; rows before `fresh` are
  // finished already. Finishes the rows of the last panel meanwhile.
  template <int RB>
  GRU_ALWAYS_INLINE void woven_panel(int64_t panel, int64_t row, int64_t second, int64_t fresh) {
    float* sums = scratch_ + turn_ * (kScratch / 2);
    multiply<RB>(panel, row, second, sums);
    done_ = {panel, fresh, second + height_ - fresh, sums + (fresh - row) * kRowFloats};
    turn_ ^= 1;
  }
  void finish_woven() {
    while (done_.rows > 0) finish_alone();
  }

  // The sums of panels [first, first + panels), then their rows: for products so short that the
  // unit had better sleep while vectors work.
  template <int RB>
  GRU_ALWAYS_INLINE void apart_panels(int64_t first, int64_t panels, int64_t row, int64_t second,
                                      int64_t fresh) {
    const int64_t rows = second + height_ - row;
    for (int64_t p = 0; p < panels; ++p) {
      multiply<RB>(first + p, row, second, scratch_ + p * rows * kRowFloats);
    }
    for (int64_t p = 0; p < panels; ++p) {
      float* sums = scratch_ + (p * rows + fresh - row) * kRowFloats;
      job_.finish_rows(first + p, fresh, second + height_ - fresh, sums);
    }
  }
  int64_t panels_at_once() const { return kScratch / ((2 * height_) * kRowFloats); }

 private:
  template <int RB>
  GRU_ALWAYS_INLINE void multiply(int64_t panel, int64_t row, int64_t second, float* sums) {
    constexpr int kPasses = RB == 2 && Job::kChains > 2 ? 2 : 1;
    constexpr int kFirst = kPasses == 2 ? 2 : Job::kChains;
    k_total_ = kPasses * tiles_of_panel(job_);
    due_ = 0;
    batch_ = done_.rows;
    pass<0, kFirst, RB>(panel, row, second, sums);
    if constexpr (kPasses == 2) pass<2, Job::kChains - 2, RB>(panel, row, second, sums);
  }

  // A row of sums; scaled sums are kept apart for each segment.
  static constexpr int kSets = Kind::kScaled ? Job::kSegments : 1;
  static constexpr int kRowFloats = kSets * Job::kChains * kTileFloats;
  static constexpr int kScratch = 16384;  // floats

  template <int First, int Count, int RB>
  GRU_ALWAYS_INLINE void pass(int64_t panel, int64_t row, int64_t second, float* sums) {
    if constexpr (!Kind::kScaled) start_sums<First, Count, RB>(panel, row, second);
    segment<0, First, Count, RB>(panel, row, second, sums);
    if constexpr (Job::kSegments > 1) segment<1, First, Count, RB>(panel, row, second, sums);
    if constexpr (!Kind::kScaled) store_sums<First, Count, RB>(sums, second - row);
  }

  template <int S, int First, int Count, int RB>
  GRU_ALWAYS_INLINE void segment(int64_t panel, int64_t row, int64_t second, float* sums) {
    using Ops = TileOps<Kind, Job, S, First, Count, RB>;
    const TileSegment part = job_.segment(S, panel);
    if (part.tiles == 0) return;
    if constexpr (Kind::kScaled) start_integers<Ops, First, RB>(part);
    const auto* rows = static_cast<const uint8_t*>(part.rows.data);
    Ops ops = {rows + row * part.rows.stride, part.rows.stride, rows + second * part.rows.stride,
               part.weights};
    for (int64_t k = 0; k < part.tiles; ++k) {
      weave(ops);
      ops.a += kTileBytes;
      ops.second += kTileBytes;
      ops.b += Job::kGates * kTileRows * kTileBytes;
    }
    if constexpr (Kind::kScaled) {
      store_sums<First, Count, RB>(sums + S * Job::kChains * kTileFloats, second - row);
    }
  }

  // The products of one k, with this k's share of the rows to finish.
  template <class Ops>
  GRU_ALWAYS_INLINE void weave(const Ops& ops) {
    Weaver<Ops> weaver(ops);
    due_ += batch_;
    if (due_ < k_total_) return weaver.rest();
    if (job_.weaves()) {
      finish_row(weaver);
      weaver.rest();
    } else {
      weaver.rest();
      finish_alone();
    }
    due_ -= k_total_;
    // Short products have many rows to finish each: a product now and then keeps the unit awake.
    for (int i = 1; due_ >= k_total_; ++i, due_ -= k_total_) {
      finish_alone();
      if (i % 4 == 0) Kind::template multiply<5, 4, 6>();  // 5 is free between two k
    }
  }

  GRU_NEVER_INLINE void finish_alone() {
    NoProducts none;
    finish_row(none);
  }

  template <class Weave>
  GRU_ALWAYS_INLINE void finish_row(Weave& weave) {
    job_.finish(done_.panel, done_.row, done_.sums, weave);
    ++done_.row;
    --done_.rows;
    done_.sums += kRowFloats;
  }

  template <int First, int Count, int RB>
  GRU_ALWAYS_INLINE void start_sums(int64_t panel, int64_t row, int64_t second) {
    each_chain<First, Count>([&](auto chain) {
      constexpr int C = decltype(chain)::value;
      const TileStart from = job_.start(panel, row, C);
      load_tile<C - First>(from.data, from.stride);
      if constexpr (RB == 2) {
        const TileStart other = job_.start(panel, second, C);
        load_tile<2 + C - First>(other.data, other.stride);
      }
    });
  }

  // Integers start from what makes up for the zero point; sums no gate goes to are not read.
  template <class Ops, int First, int RB>
  GRU_ALWAYS_INLINE void start_integers(const TileSegment& part) {
    each_chain<0, Job::kGates>([&](auto gate) {
      constexpr int G = decltype(gate)::value;
      if constexpr (Ops::has(G)) {
        constexpr int C = Job::chain(Ops::kSegment, G) - First;
        const uint8_t* start = part.head + (Job::kGates + G) * kTileBytes;
        load_tile<C>(start, 0);
        if constexpr (RB == 2) load_tile<2 + C>(start, 0);
      }
    });
  }

  template <int First, int Count, int RB>
  GRU_ALWAYS_INLINE void store_sums(float* sums, int64_t apart) {
    each_chain<First, Count>([&](auto chain) {
      constexpr int C = decltype(chain)::value;
      float* to = sums + C * kTileFloats;
      store_tile<C - First>(to, kRowFloats * 4);
      if constexpr (RB == 2) store_tile<2 + C - First>(to + apart * kRowFloats, kRowFloats * 4);
    });
  }

  template <int C>
  struct Number {
    static constexpr int value = C;
  };
  template <int First, int Count, class F>
  GRU_INLINE void each_chain(F f) {
    if constexpr (Count > 0) {
      f(Number<First>{});
      each_chain<First + 1, Count - 1>(f);
    }
  }

  const Job& job_;
  const int height_;
  DonePanel done_;
  int64_t due_ = 0, batch_ = 0, k_total_ = 1;
  int turn_ = 0;
  alignas(64) float scratch_[kScratch];
};

// Blocks of equal size that cover `rows` rows: the last ones overlap a little, so that one
// configuration of the tiles does for all.
struct RowBlocks {
  int64_t rows, count, height;
  explicit RowBlocks(int64_t n)
      : rows(n), count((n + kTileRows - 1) / kTileRows), height((n + count - 1) / count) {}
  int64_t fresh(int64_t block) const { return block * height; }
  int64_t top(int64_t block) const {
    return fresh(block) < rows - height ? fresh(block) : rows - height;
  }
  // Calls f(pair, top, second top, fresh) for blocks two by two; pair is false for a last one
  // alone.
  template <class F>
  GRU_ALWAYS_INLINE void each(F f) const {
    int64_t block = 0;
    for (; block + 1 < count; block += 2) f(true, top(block), top(block + 1), fresh(block));
    if (block < count) f(false, top(block), top(block), fresh(block));
  }
};

// All rows of panels [begin, end).
template <class Kind, class Job>
GRU_NOINLINE void multiply_tiles(const Job& job, int64_t begin, int64_t end, int64_t rows,
                                 bool backwards) {
  const RowBlocks blocks(rows);
  const TileScope scope(static_cast<int>(blocks.height));
  TileProduct<Kind, Job> product(job, static_cast<int>(blocks.height));
  if (rows > 1 && job.rows_of_a_tile() * tiles_of_panel(job) < blocks.height) {
    const int64_t step = product.panels_at_once();
    for (int64_t done = 0; done < end - begin; done += step) {
      const int64_t n = end - begin - done < step ? end - begin - done : step;
      const int64_t first = backwards ? end - done - n : begin + done;
      blocks.each([&](bool pair, int64_t top, int64_t second, int64_t fresh) {
        if (pair) return product.template apart_panels<2>(first, n, top, second, fresh);
        product.template apart_panels<1>(first, n, top, second, fresh);
      });
    }
    return;
  }
  for (int64_t p = begin; p < end; ++p) {
    const int64_t panel = backwards ? begin + end - 1 - p : p;
    blocks.each([&](bool pair, int64_t top, int64_t second, int64_t fresh) {
      if (pair) return product.template woven_panel<2>(panel, top, second, fresh);
      product.template woven_panel<1>(panel, top, second, fresh);
    });
  }
  product.finish_woven();
}

GRU_END_KERNELS
