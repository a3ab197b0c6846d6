// SPDX-License-Identifier: MIT
// Whether a model streams frame by frame: it is planned with a marked number of frames, and every
// operator says what becomes of the time axis.
#include <algorithm>
#include <set>

#include "engine/engine.h"

namespace gruengine {
namespace {

// Sizes that hardly occur in models; the first that does not occur in this one marks time.
constexpr int64_t kMarks[] = {61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127};

bool named_like_time(const std::string& symbol) {
  static const std::set<std::string> kNames = {"T",       "t",        "time",   "seq",
                                               "seq_len", "sequence", "length", "frames"};
  return kNames.count(symbol) != 0;
}

// Symbols of inputs that are no states, in order of appearance, those named like time first.
std::vector<std::string> time_candidates(const Engine& engine) {
  std::vector<std::string> named, others;
  for (const Port& port : engine.file().graph.inputs) {
    if (engine.is_state_input(port.name)) continue;
    for (const Dim& dim : port.shape) {
      if (dim.symbol.empty()) continue;
      auto& list = named_like_time(dim.symbol) ? named : others;
      if (std::find(list.begin(), list.end(), dim.symbol) == list.end()) list.push_back(dim.symbol);
    }
  }
  named.insert(named.end(), others.begin(), others.end());
  return named;
}

}  // namespace

int64_t choose_mark(const ModelFile& file, const std::vector<Dims>& inputs) {
  std::set<int64_t> used;
  for (const Dims& dims : inputs) used.insert(dims.begin(), dims.end());
  for (const auto& [name, tensor] : file.tensors)
    used.insert(tensor.dims.begin(), tensor.dims.end());
  for (const Port& port : file.graph.inputs) {
    for (const Dim& dim : port.shape) used.insert(dim.value);
  }
  for (const int64_t mark : kMarks) {
    if (used.count(mark) == 0) return mark;
  }
  return 10007;
}

namespace {

struct Verdict {
  bool streams = false;
  bool over_time = false;  // a recurrent node steps along this axis
  std::string node, reason;
};

Verdict judge(const Engine& engine, const std::string& time, bool only, int64_t mark) {
  Sizes sizes;
  for (const Port& port : engine.file().graph.inputs) {
    for (const Dim& dim : port.shape) {
      if (!dim.symbol.empty()) sizes[dim.symbol] = dim.symbol == time ? mark : 1;
    }
  }
  Verdict verdict;
  try {
    PlanRequest request;
    request.inputs = engine.input_dims(sizes);
    request.time = time;
    request.stateful = true;
    request.marked = mark;
    const auto plan = engine.plan_once(request);
    verdict.over_time = plan->over_time > 0;
    verdict.node = plan->failed_node;
    verdict.reason = plan->failed_why;
    if (plan->recurrent > 0 && plan->over_time == 0 && verdict.reason.empty()) {
      verdict.reason = "no recurrent node steps along the axis '" + time + "'";
    }
    // Without a recurrent node every axis of independent rows looks like time: only a name tells.
    if (plan->recurrent == 0 && verdict.reason.empty() && !only && !named_like_time(time)) {
      verdict.reason = "no recurrent node tells which axis is time";
    }
    if (verdict.reason.empty()) {
      // One frame must go the way of many; a stream with one row asks for this plan again.
      sizes[time] = 1;
      request.inputs = engine.input_dims(sizes);
      request.marked = 0;
      const auto step = engine.plan(request);
      verdict.node = step->failed_node;
      verdict.reason = step->failed_why;
    }
    verdict.streams = verdict.reason.empty();
  } catch (const Error& error) {
    verdict.reason = error.what();
  }
  return verdict;
}

std::string batch_symbol(const Engine& engine, const std::vector<std::string>& candidates,
                         const std::string& time) {
  std::vector<std::string> rest;
  std::copy_if(candidates.begin(), candidates.end(), std::back_inserter(rest),
               [&](const std::string& symbol) { return symbol != time; });
  for (const Port& port : engine.file().graph.inputs) {
    if (!engine.is_state_input(port.name)) continue;
    for (const Dim& dim : port.shape) {
      if (!dim.symbol.empty() && dim.symbol != time) return dim.symbol;
    }
  }
  return rest.size() == 1 ? rest[0] : "";
}

}  // namespace

Streaming analyse_streaming(const Engine& engine) {
  const auto candidates = time_candidates(engine);
  const int64_t mark = choose_mark(engine.file(), {});
  Streaming streaming;
  Verdict best;
  for (const std::string& time : candidates) {
    const Verdict verdict = judge(engine, time, candidates.size() == 1, mark);
    if (verdict.streams) {
      streaming.form = Streaming::Form::kFrames;
      streaming.time = time;
      streaming.batch = batch_symbol(engine, candidates, time);
      streaming.reason = "every operator works frame by frame along the axis '" + time + "'";
      return streaming;
    }
    if (best.reason.empty() || (verdict.over_time && !best.over_time)) {
      best = verdict;
      streaming.time = time;
    }
  }
  if (!best.over_time) streaming.time.clear();
  streaming.batch = batch_symbol(engine, candidates, streaming.time);
  if (!engine.file().state.empty()) {
    streaming.form = Streaming::Form::kCalls;
    streaming.time.clear();
    streaming.reason = "the graph is one step; the stream carries its states";
    return streaming;
  }
  streaming.node = best.node;
  streaming.reason =
      candidates.empty()
          ? "every size is fixed and no output was found to be the next value of an input: the "
            "model has no time axis and no state to carry, unless state= names one"
          : best.reason;
  return streaming;
}

}  // namespace gruengine
