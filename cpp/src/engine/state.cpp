// SPDX-License-Identifier: MIT
#include "engine/state.h"

#include <algorithm>
#include <cstring>

namespace gruengine {
namespace {

// Header of packed states, little-endian. `elements` tells batch sizes apart that round up to equal
// bytes.
struct Header {
  char magic[4];
  uint32_t version;
  uint64_t bytes;
  uint64_t elements;
  char hash[64];
};
constexpr char kMagic[4] = {'G', 'R', 'U', 'S'};
constexpr uint32_t kVersion = 1;

Header header_for(const std::string& hash, const Plan& plan) {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kVersion;
  header.bytes = static_cast<uint64_t>(plan.state_bytes);
  for (const Plan::StateInit& init : plan.state) {
    header.elements += static_cast<uint64_t>(count(init.entry.dims));
  }
  std::memcpy(header.hash, hash.data(), std::min(hash.size(), sizeof header.hash));
  return header;
}

}  // namespace

std::vector<StateEntry> entries_of(const Plan& plan) {
  std::vector<StateEntry> entries;
  for (const Plan::StateInit& init : plan.state) entries.push_back(init.entry);
  return entries;
}

void reset_state(const Plan& plan, char* block) {
  std::fill(block, block + plan.state_bytes, '\0');
  for (const Plan::StateInit& init : plan.state) {
    const auto bytes = static_cast<size_t>(count(init.entry.dims) * size_of(init.entry.dtype));
    if (init.initial != nullptr) std::memcpy(block + init.entry.offset, init.initial, bytes);
  }
}

void check_lengths(const Engine& engine, const PlanRequest& request, const int64_t* lengths,
                   int64_t rows) {
  int64_t frames = -1;
  bool batch_known = false;
  const auto& ports = engine.file().graph.inputs;
  for (size_t i = 0; i < ports.size(); ++i) {
    if (engine.is_state_input(ports[i].name)) continue;
    for (size_t axis = 0; axis < ports[i].shape.size(); ++axis) {
      if (ports[i].shape[axis].symbol == request.time) {
        frames = request.inputs[i][axis];
        const int64_t other = ports[i].shape.size() < 2 ? 1 : request.inputs[i][axis == 0 ? 1 : 0];
        batch_known = batch_known || other == rows;
      }
    }
  }
  if (request.time.empty() || frames < 0) {
    throw Error(ErrorCode::kUnsupported, "lengths need a model with a time axis");
  }
  if (!batch_known) {
    throw Error(ErrorCode::kInvalidArgument,
                "got " + std::to_string(rows) + " lengths; there must be one for each row");
  }
  for (int64_t row = 0; row < rows; ++row) {
    if (lengths[row] < 0 || lengths[row] > frames) {
      throw Error(ErrorCode::kInvalidArgument,
                  "length " + std::to_string(lengths[row]) + " of row " + std::to_string(row) +
                      "; it must be from 0 to " + std::to_string(frames));
    }
  }
}

std::vector<uint8_t> pack_state(const std::string& model_hash, const Plan& plan,
                                const char* block) {
  const Header header = header_for(model_hash, plan);
  std::vector<uint8_t> bytes(sizeof header + static_cast<size_t>(plan.state_bytes));
  std::memcpy(bytes.data(), &header, sizeof header);
  if (plan.state_bytes > 0) {
    std::memcpy(bytes.data() + sizeof header, block, static_cast<size_t>(plan.state_bytes));
  }
  return bytes;
}

void unpack_state(const std::string& model_hash, const Plan& plan, const uint8_t* bytes,
                  size_t size, char* block) {
  const Header wanted = header_for(model_hash, plan);
  Header header{};
  if (size >= sizeof header) std::memcpy(&header, bytes, sizeof header);
  const auto refuse = [](const std::string& what) {
    throw Error(ErrorCode::kInvalidArgument, "cannot set this state: " + what);
  };
  if (size < sizeof header || std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) {
    refuse("the bytes are not a state of gruengine");
  }
  if (header.version != kVersion) {
    refuse("its version is " + std::to_string(header.version) + "; this library reads 1");
  }
  if (std::memcmp(header.hash, wanted.hash, sizeof header.hash) != 0) {
    refuse("it belongs to another model");
  }
  if (header.bytes != wanted.bytes || header.elements != wanted.elements ||
      size != sizeof header + header.bytes) {
    refuse("it holds " + std::to_string(size - sizeof header) + " bytes; this stream has " +
           std::to_string(wanted.bytes) + " (another batch size?)");
  }
  if (header.bytes > 0) std::memcpy(block, bytes + sizeof header, header.bytes);
}

}  // namespace gruengine
