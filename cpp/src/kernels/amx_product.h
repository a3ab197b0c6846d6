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
//   place(panel, row)       where the sums of all rows go, if nothing is left to do to them
//   weaves(panel)           whether the rows of a panel can be finished side by side
//   rows_of_a_tile()        rows of a block for each of its tiles that are best finished while
//                           products run; with more, all products come first
//   finish(panel, row, sums, weave)   takes the sums of kWoven rows; calls weave.next() between the
//                           parts of its work
//   finish_rows(panel, row, rows, sums)   many rows at once; may write to sums
// Sums of panel p are finished while the products of panel p + 1 run: each call of next() issues
// those of one k.
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
  int64_t tiles;           // of a row
  bool parts;              // each of them has a low one, `tiles` behind it, and so have the weights
};

struct TileStart {
  const float* data;
  int64_t stride;  // bytes from row to row; 0: one for all
};

// Where sums go.
struct TilePlace {
  float* data;
  int64_t stride;  // floats from row to row
};

// The rows of a panel whose sums are complete.
struct DonePanel {
  int64_t panel = 0;
  int64_t row = 0;   // the next one to finish
  int64_t rows = 0;  // left
  float* sums;       // of `row`
};

// The products of a pass, k by k. A pass has RB blocks of rows and the gates of a segment that go
// to some of the chains: Mask says to which, counted from the first of the pass. Which pass it is
// is known at run time only, so that there is one copy of what products are woven with.
template <class Kind, class Job>
struct TileFeed {
  const uint8_t* a;
  const uint8_t* second;  // the rows of the second block
  int64_t a_stride;
  const uint8_t* b;  // the first gate of the pass
  int64_t left;      // of k, each thrice where there are two parts
  int64_t low;       // tiles from the high to the low part; 0: there is one part
  int blocks, mask;
  int term = 0;  // high * high, low * high, high * low

  static constexpr int per_pass(int blocks) { return blocks == 2 ? 2 : Job::kChains; }
  static constexpr bool has(int s, int first, int blocks, int gate) {
    return Job::chain(s, gate) >= first && Job::chain(s, gate) < first + per_pass(blocks);
  }
  static constexpr int first_gate(int s, int first, int blocks) {
    int gate = 0;
    while (gate < Job::kGates && !has(s, first, blocks, gate)) ++gate;
    return gate;
  }
  static constexpr int mask_of(int s, int first, int blocks) {
    int mask = 0;
    for (int g = 0; g < Job::kGates; ++g) {
      if (has(s, first, blocks, g)) mask |= 1 << (Job::chain(s, g) - first);
    }
    return mask;
  }

  // The products of one k, if one is left.
  GRU_ALWAYS_INLINE void next() {
    constexpr int kLast = Job::kSegments - 1;
    if (left == 0) return;
    if (blocks == 1) {
      issue_one<1, mask_of(0, 0, 1), mask_of(kLast, 0, 1)>();
    } else {
      issue_one<2, mask_of(0, 0, 2), mask_of(0, 2, 2), mask_of(kLast, 2, 2)>();
    }
    --left;
    if (low > 0 && term == 0) return turn(1, low, 0);
    if (low > 0 && term == 1) return turn(2, -low, low);
    turn(0, 1, low > 0 ? 1 - low : 1);
  }

 private:
  GRU_ALWAYS_INLINE void turn(int next, int64_t rows, int64_t weights) {
    term = next;
    a += rows * kTileBytes;
    second += rows * kTileBytes;
    b += weights * (Job::kGates * kTileRows * kTileBytes);
  }

  // Those of the mask at hand, which is one of these.
  template <int RB, int M, int... Others>
  GRU_ALWAYS_INLINE void issue_one() const {
    if constexpr (sizeof...(Others) == 0) {
      issue<RB, M, 0, 0>();
    } else if constexpr (M == 0 || ((M == Others) || ...)) {
      issue_one<RB, Others...>();
    } else {
      if (mask == M) return issue<RB, M, 0, 0>();
      issue_one<RB, Others...>();
    }
  }

  // From gate N, whose sum is the first of Mask from C.
  template <int RB, int Mask, int N, int C>
  GRU_ALWAYS_INLINE void issue() const {
    if constexpr (Mask == 0) {
      return;
    } else if constexpr (Mask % 2 == 0) {
      issue<RB, Mask / 2, N, C + 1>();
    } else {
      constexpr int B = 6 + N % 2;
      if constexpr (N == 0) load_tile<4>(a, a_stride);
      load_tile<B>(b + N * kTileBytes, Job::kGates * kTileBytes);
      Kind::template multiply<C, 4, B>();
      if constexpr (RB == 2) {
        if constexpr (N == 0) load_tile<5>(second, a_stride);
        Kind::template multiply<C + 2, 5, B>();
      }
      issue<RB, Mask / 2, N + 1, C + 1>();
    }
  }
};

constexpr int kWoven = 4;  // rows

template <class Job>
GRU_INLINE int64_t tiles_of_panel(const Job& job) {
  int64_t tiles = 0;
  for (int s = 0; s < Job::kSegments; ++s) {
    const TileSegment segment = job.segment(s, 0);
    tiles += segment.tiles * (segment.parts ? 3 : 1);
  }
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
    const TilePlace place = job_.place(panel, row);
    if (place.data != nullptr) return multiply<RB>(panel, row, second, place);
    float* sums = scratch_ + turn_ * (kScratch / 2);
    multiply<RB>(panel, row, second, {sums, kRowFloats});
    finish_rest();
    done_ = {panel, fresh, second + height_ - fresh, sums + (fresh - row) * kRowFloats};
    turn_ ^= 1;
  }
  void finish_woven() { finish_rest(); }

  // The sums of panels [first, first + panels), then their rows: for products so short that the
  // unit had better sleep while vectors work.
  template <int RB>
  GRU_ALWAYS_INLINE void apart_panels(int64_t first, int64_t panels, int64_t step, int64_t row,
                                      int64_t second, int64_t fresh) {
    const int64_t rows = second + height_ - row;
    for (int64_t p = 0; p < panels; ++p) {
      multiply<RB>(first + p * step, row, second, {scratch_ + p * rows * kRowFloats, kRowFloats});
    }
    for (int64_t p = 0; p < panels; ++p) {
      float* sums = scratch_ + (p * rows + fresh - row) * kRowFloats;
      job_.finish_rows(first + p * step, fresh, second + height_ - fresh, sums);
    }
  }
  int64_t panels_at_once() const { return kScratch / ((2 * height_) * kRowFloats); }

 private:
  template <int RB>
  GRU_ALWAYS_INLINE void multiply(int64_t panel, int64_t row, int64_t second, TilePlace to) {
    constexpr int kPasses = RB == 2 && Job::kChains > 2 ? 2 : 1;
    constexpr int kFirst = kPasses == 2 ? 2 : Job::kChains;
    k_total_ = kPasses * tiles_of_panel(job_);
    due_ = 0;
    batch_ = done_.rows;
    pass<0, kFirst, RB>(panel, row, second, to);
    if constexpr (kPasses == 2) pass<2, Job::kChains - 2, RB>(panel, row, second, to);
  }

  // A row of sums; scaled sums are kept apart for each segment.
  static constexpr int kSets = Kind::kScaled ? Job::kSegments : 1;
  static constexpr int kRowFloats = kSets * Job::kChains * kTileFloats;
  static constexpr int kScratch = 16384;  // floats

  template <int First, int Count, int RB>
  GRU_ALWAYS_INLINE void pass(int64_t panel, int64_t row, int64_t second, TilePlace to) {
    if constexpr (!Kind::kScaled) start_sums<First, Count, RB>(panel, row, second);
    segment<0, First, Count, RB>(panel, row, second, to);
    if constexpr (Job::kSegments > 1) segment<1, First, Count, RB>(panel, row, second, to);
    if constexpr (!Kind::kScaled) store_sums<First, Count, RB>(to, second - row);
  }

  template <int S, int First, int Count, int RB>
  GRU_ALWAYS_INLINE void segment(int64_t panel, int64_t row, int64_t second, TilePlace to) {
    using Feed = TileFeed<Kind, Job>;
    constexpr int kGate = Feed::first_gate(S, First, RB);
    const TileSegment part = job_.segment(S, panel);
    if (part.tiles == 0 || kGate == Job::kGates) return;
    if constexpr (Kind::kScaled) start_integers<S, First, Count, RB>(part);
    const auto* rows = static_cast<const uint8_t*>(part.rows.data);
    weave({rows + row * part.rows.stride, rows + second * part.rows.stride, part.rows.stride,
           part.weights + kGate * kTileBytes, part.tiles * (part.parts ? 3 : 1),
           part.parts ? part.tiles : 0, RB, Feed::mask_of(S, First, RB)});
    if constexpr (Kind::kScaled) {
      to.data += S * Job::kChains * kTileFloats;
      store_sums<First, Count, RB>(to, second - row);
    }
  }

  // The products of a pass, with its share of the rows to finish.
  GRU_NEVER_INLINE void weave(TileFeed<Kind, Job> feed) {
    while (feed.left > 0) {
      const int64_t before = feed.left;
      if (due_ >= 0 && done_.rows >= kWoven && job_.weaves(done_.panel)) {
        job_.finish(done_.panel, done_.row, done_.sums, feed);
        finished(kWoven);
        due_ -= kWoven * k_total_;
      } else {
        feed.next();
      }
      due_ += (before - feed.left) * batch_;
    }
  }

  void finish_rest() {
    if (done_.rows == 0) return;
    job_.finish_rows(done_.panel, done_.row, done_.rows, done_.sums);
    finished(done_.rows);
  }

  GRU_ALWAYS_INLINE void finished(int64_t rows) {
    done_.row += rows;
    done_.rows -= rows;
    done_.sums += rows * kRowFloats;
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
  template <int S, int First, int Count, int RB>
  GRU_ALWAYS_INLINE void start_integers(const TileSegment& part) {
    each_chain<0, Job::kGates>([&](auto gate) {
      constexpr int G = decltype(gate)::value;
      constexpr int C = Job::chain(S, G) - First;
      if constexpr (C >= 0 && C < Count) {
        const uint8_t* start = part.head + (Job::kGates + G) * kTileBytes;
        load_tile<C>(start, 0);
        if constexpr (RB == 2) load_tile<2 + C>(start, 0);
      }
    });
  }

  // The second block starts `apart` rows behind the first.
  template <int First, int Count, int RB>
  GRU_ALWAYS_INLINE void store_sums(TilePlace place, int64_t apart) {
    each_chain<First, Count>([&](auto chain) {
      constexpr int C = decltype(chain)::value;
      float* to = place.data + C * kTileFloats;
      store_tile<C - First>(to, place.stride * 4);
      if constexpr (RB == 2) {
        store_tile<2 + C - First>(to + apart * place.stride, place.stride * 4);
      }
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
      const int64_t first = backwards ? end - 1 - done : begin + done;
      const int64_t next = backwards ? -1 : 1;
      blocks.each([&](bool pair, int64_t top, int64_t second, int64_t fresh) {
        if (pair) return product.template apart_panels<2>(first, n, next, top, second, fresh);
        product.template apart_panels<1>(first, n, next, top, second, fresh);
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
