// SPDX-License-Identifier: MIT
#include "small_model.h"

#include <cstring>
#include <memory>
#include <random>
#include <string>

#include "io_seed.h"

using gruengine::test::Bytes;

namespace {

struct Floats {
  std::string header;
  Bytes data;
  std::mt19937 random;

  // Adds a tensor of this shape, given as JSON, and of `count` values.
  void add(const std::string& name, const std::string& shape, int count) {
    const size_t begin = data.size();
    for (int i = 0; i < count; ++i) {
      const float value = static_cast<float>(random() % 2001) * 4e-4f - 0.4f;
      const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
      data.insert(data.end(), bytes, bytes + sizeof value);
    }
    header += ",\"" + name + R"(":{"dtype":"F32","shape":)" + shape + R"(,"data_offsets":[)" +
              std::to_string(begin) + "," + std::to_string(data.size()) + "]}";
  }
};

const uint8_t* keep(Bytes bytes, size_t* size) {
  *size = bytes.size();
  return (new Bytes(std::move(bytes)))->data();
}

}  // namespace

const uint8_t* small_lstm(int inputs, int hidden, unsigned seed, size_t* size) {
  const std::string i = std::to_string(inputs), h = std::to_string(hidden);
  const std::string gates = std::to_string(4 * hidden);
  Floats floats;
  floats.random.seed(seed);
  floats.add("B", "[1," + std::to_string(8 * hidden) + "]", 8 * hidden);
  floats.add("R", "[1," + gates + "," + h + "]", 4 * hidden * hidden);
  floats.add("W", "[1," + gates + "," + i + "]", 4 * hidden * inputs);
  const std::string description =
      R"({"format":1,"graph":{"inputs":[{"name":"x","dtype":"float32","shape":["T","N",)" + i +
      R"(]}],"outputs":[{"name":"y","dtype":"float32","shape":["T",1,"N",)" + h +
      R"(]}],"nodes":[{"op":"Recurrent","name":"lstm","inputs":["x","W","R","B"],"outputs":["y"],)"
      R"("attrs":{"cell":{"s":"lstm"},"hidden_size":{"i":)" +
      h +
      R"(},"direction":{"s":"forward"},"activations":{"ss":["Sigmoid","Tanh","Tanh"]},)"
      R"("activation_alpha":{"fs":[0.0,0.0,0.0]},"activation_beta":{"fs":[0.0,0.0,0.0]},)"
      R"("clip":{"f":0.0},"coupled":{"i":0}}}]},"state":[],"provenance":{"source":"test"},)"
      R"("tensors":["B","R","W"]})";
  const std::string header = R"({"__metadata__":{"gruengine":")" +
                             gruengine::test::escaped(description) + "\"}" + floats.header + "}";
  return keep(gruengine::test::container(header, floats.data), size);
}

const uint8_t* small_carried(size_t* size) { return keep(gruengine::test::seed_file(), size); }
