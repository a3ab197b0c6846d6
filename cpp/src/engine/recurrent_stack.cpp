// SPDX-License-Identifier: MIT
#include "engine/recurrent_stack.h"

#include <algorithm>
#include <atomic>

#include "engine/thread_worth.h"

namespace gruengine {
namespace {

// Of one step of one direction, shared by so many threads.
int64_t step_time(const RecurrentPlan& layer, int64_t threads) {
  const int64_t bytes = layer.weight_bytes() / threads;
  const int64_t products = layer.products() / threads;
  return estimate(bytes, products, layer.rate(), bytes) + 20 * layer.panels * layer.N / threads;
}

// Of the products of inputs that are made apart from the steps.
int64_t input_time(const RecurrentPlan& layer) {
  if (layer.chunk_steps == 0) return 0;
  return layer.T * layer.products() / std::max<int64_t>(1, layer.K) * layer.I / layer.rate();
}

int64_t stages(const RecurrentPlan& layer) {
  return static_cast<int64_t>(layer.directions[0].phases.size()) + (layer.projected ? 1 : 0);
}

int64_t time_alone(const RecurrentPlan& layer) {
  return layer.T * step_time(layer, 1) + input_time(layer);
}

int64_t time_split(const RecurrentPlan& layer, int64_t threads) {
  if (layer.rare()) return time_alone(layer);
  const int64_t moved = exchange(layer.N * layer.K * static_cast<int64_t>(sizeof(float)), threads);
  return layer.T * (step_time(layer, threads) + stages(layer) * kStageCost + moved) +
         input_time(layer) / threads;
}

// What a lane of a wave reads anew for each piece: the weights of its inputs, which take longer
// than their products where these are few, and the others if those of its thread do not stay in L2.
int64_t reading_again(const RecurrentPlan& layer, int64_t piece, int64_t resident) {
  const int64_t bytes = layer.weight_bytes();
  const int64_t inputs =
      layer.chunk_steps == 0 ? 0 : bytes * layer.I / std::max<int64_t>(1, layer.K);
  const int64_t products = input_time(layer) * piece / layer.T;
  const int64_t beside = std::max(resident, bytes + inputs);
  return std::max<int64_t>(0, reading(inputs, kNotResident) - products) + reading(bytes, beside) -
         reading(bytes, bytes);
}

bool pays(int64_t shared, int64_t alone) {
  return alone >= kSharedRun && shared + kRunCost < alone - alone / 8;
}

// The pieces of time of one lane: one thread at a time makes the next of them.
struct alignas(64) Progress {
  std::atomic<uint32_t> done{0};
  std::atomic<bool> busy{false};
};

}  // namespace

bool worth_sharing(const RecurrentPlan& layer) {
  return pays(time_split(layer, 2), time_alone(layer));
}

bool worth_waking(const RecurrentPlan& layer) { return time_alone(layer) >= kWokenRun; }

bool RecurrentStack::takes(const RecurrentPlan& next) const {
  if (layers_.size() >= kMostLanes || next.D != 1 || next.directions[0].reverse) return false;
  const RecurrentPlan& last = *layers_.back();
  if (last.D != 1 || last.directions[0].reverse || last.T != next.T || last.N != next.N) {
    return false;
  }
  if (last.has_lengths || next.has_lengths || next.x != last.y) return false;
  return std::none_of(layers_.begin(), layers_.end(), [&](const auto& layer) {
    const auto made = [&](Slot slot) {
      return slot == layer->y || (layer->wants_y_h && slot == layer->y_h) ||
             (layer->wants_y_c && slot == layer->y_c);
    };
    return made(next.h0) || made(next.c0);
  });
}

void RecurrentStack::add(std::shared_ptr<const RecurrentPlan> layer) {
  layers_.push_back(std::move(layer));
  way_ = choose_way();
  plain_ = way_.threads == 1 && std::all_of(layers_.begin(), layers_.end(),
                                            [](const auto& each) { return each->is_plain_step(); });
}

void RecurrentStack::run(const Frame& frame) const {
  if (plain_) {
    for (const auto& layer : layers_) layer->run_plain_step(frame);
    return;
  }
  if (layers_.size() == 1 && layers_[0]->run_lengths(frame)) return;
  Lanes all;
  for (const auto& layer : layers_) {
    layer->start(frame);
    for (int d = 0; d < layer->D; ++d) {
      all.lane[all.count] = {layer.get(), layer->sequence(frame, d), all.count - 1};
      if (layer->D > 1) all.lane[all.count].before = -1;
      ++all.count;
    }
  }
  if (way_.lanes) {
    run_lanes(all);
  } else {
    const auto body = [&](Team& team) {
      for (int i = 0; i < all.count; ++i) {
        const Lane& lane = all.lane[i];
        if (lane.layer->N > 0) lane.layer->run_steps(lane.sequence, 0, lane.layer->T, team);
      }
    };
    run_helped(way_.threads, way_.wake, body);
  }
  for (const auto& layer : layers_) layer->finish(frame);
}

RecurrentStack::Way RecurrentStack::choose_way() const {
  Way way;
  const int64_t T = layers_[0]->T;
  if (threads_ <= 1 || T == 0 || layers_[0]->N == 0) return way;
  int64_t alone = 0, split = 0, lanes = 0;
  for (const auto& layer : layers_) {
    alone += layer->D * time_alone(*layer);
    split += layer->D * time_split(*layer, threads_);
    lanes += layer->lanes;
  }
  if (pays(split, alone)) way.threads = threads_;
  way.wake = alone >= kWokenRun;
  const bool wave = layers_.size() > 1;
  if (lanes < 2 || (wave && T < 2)) return way;
  // Pieces are long beside the cost of telling of them, and many beside the lanes.
  const int64_t step = std::max<int64_t>(1, alone / (T * lanes));
  way.piece = wave ? std::max((T + kMostPieces - 1) / kMostPieces, kSharedRun / step + 1) : T;
  const int64_t pieces = (T + way.piece - 1) / way.piece;
  const int64_t used = std::min<int64_t>(threads_, lanes);
  const int64_t rounds = (lanes + used - 1) / used;
  int64_t side = wave ? alone / used : alone / lanes * rounds;
  side += pieces * kPieceCost;
  if (wave) {
    side += side * (lanes - 1) / pieces;
    int64_t bytes = 0, again = 0;
    for (const auto& layer : layers_) bytes += layer->weight_bytes();
    for (const auto& layer : layers_) {
      again += reading_again(*layer, way.piece, bytes / used);
    }
    side += pieces * again / used;
  }
  if (!pays(side, alone) || (way.threads > 1 && split <= side)) return way;
  way.threads = static_cast<int>(used);
  way.lanes = true;
  return way;
}

void RecurrentStack::run_lanes(const Lanes& all) const {
  const int64_t T = layers_[0]->T;
  const auto pieces = static_cast<uint32_t>((T + way_.piece - 1) / way_.piece);
  Progress progress[kMostLanes];
  std::atomic<uint32_t> events{0}, sleepers{0};

  const auto ready = [&](int i) {
    const uint32_t done = progress[i].done.load(std::memory_order_acquire);
    const int before = all.lane[i].before;
    return done < pieces &&
           (before < 0 || progress[before].done.load(std::memory_order_acquire) > done);
  };
  const auto run_piece = [&](int i) {
    if (!ready(i) || progress[i].busy.exchange(true, std::memory_order_acquire)) return false;
    const bool still = ready(i);
    if (still) {
      Team alone;
      const int64_t from = progress[i].done.load(std::memory_order_relaxed) * way_.piece;
      all.lane[i].layer->run_steps(all.lane[i].sequence, from, std::min(T, from + way_.piece),
                                   alone);
      progress[i].done.fetch_add(1, std::memory_order_release);
    }
    progress[i].busy.store(false, std::memory_order_release);
    events.fetch_add(1);
    wake_all(events, sleepers);
    return still;
  };
  const auto finished = [&] {
    for (int i = 0; i < all.count; ++i) {
      if (progress[i].done.load(std::memory_order_acquire) < pieces) return false;
    }
    return true;
  };
  run_helped(way_.threads, way_.wake, [&](Team& team) {
    // The lanes of this member first, so that their weights stay in its cache; later layers first.
    const int end = static_cast<int>(team.end(all.count));
    while (!finished() && !team.deserted()) {
      const uint32_t seen = events.load(std::memory_order_acquire);
      bool ran = false;
      for (int i = 0; i < all.count && !ran; ++i) {
        ran = run_piece((end - 1 - i + all.count) % all.count);
      }
      if (!ran && !finished()) team.wait_for(events, seen + 1, sleepers);
    }
  });
}

}  // namespace gruengine
