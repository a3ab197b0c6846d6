// SPDX-License-Identifier: MIT
// Models of RTNeural with sizes known to the compiler. `benchmarks/peers/rtneural.py` compiles this
// with a backend, and with MODELS: a list of MODEL(cell, inputs, units).

#include <RTNeural/RTNeural.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace {

using Rows = std::vector<std::vector<float>>;

// [rows, columns] -> a vector of rows.
Rows rows_of(const float* values, int rows, int columns) {
  Rows found;
  for (int row = 0; row < rows; ++row) {
    found.emplace_back(values + row * columns, values + (row + 1) * columns);
  }
  return found;
}

struct Model {
  virtual ~Model() = default;
  // W [I, G*H], R [H, G*H], bias [2, G*H].
  virtual void set_weights(const float* W, const float* R, const float* bias) = 0;
  // x [frames, I], y [frames, H]: all frames one after the other, and again.
  virtual void steps(const float* x, float* y, int64_t frames, int64_t repeats) = 0;
};

void set_bias(auto& layer, const float* bias, int columns) {
  const Rows both = rows_of(bias, 2, columns);
  if constexpr (requires { layer.setBVals(both); }) {
    layer.setBVals(both);  // a GRU keeps two
  } else {
    std::vector<float> sum(both[0]);
    for (int i = 0; i < columns; ++i) sum[i] += both[1][i];
    layer.setBVals(sum);
  }
}

template <typename Layer, int I, int H, int G>
struct Sized final : Model {
  void set_weights(const float* W, const float* R, const float* bias) override {
    auto& layer = net.template get<0>();
    layer.setWVals(rows_of(W, I, G * H));
    layer.setUVals(rows_of(R, H, G * H));
    set_bias(layer, bias, G * H);
    net.reset();
  }
  void steps(const float* x, float* y, int64_t frames, int64_t repeats) override {
    for (int64_t step = 0; step < frames * repeats; ++step) {
      const int64_t frame = step % frames;
      std::memcpy(input, x + frame * I, sizeof(float) * I);
      net.forward(input);
      std::memcpy(y + frame * H, net.getOutputs(), sizeof(float) * H);
    }
  }
  RTNeural::ModelT<float, I, H, Layer> net;
  alignas(64) float input[(I + 15) / 16 * 16] = {};  // loaded in whole vectors
};

constexpr int kGatesLSTM = 4, kGatesGRU = 3;

}  // namespace

extern "C" {

// cell: "LSTM", "GRU". NULL where this file was compiled without that model.
Model* rtneural_open(const char* cell, int inputs, int units) {
#define MODEL(kind, I, H)                                                                     \
  if (std::strcmp(cell, #kind) == 0 && inputs == I && units == H) {                           \
    return std::make_unique<Sized<RTNeural::kind##LayerT<float, I, H>, I, H, kGates##kind>>() \
        .release();                                                                           \
  }
  MODELS
#undef MODEL
  return nullptr;
}

void rtneural_set_weights(Model* model, const float* W, const float* R, const float* bias) {
  model->set_weights(W, R, bias);
}

int rtneural_steps(Model* model, const float* x, float* y, int64_t frames, int64_t repeats) {
  model->steps(x, y, frames, repeats);
  return 0;
}

void rtneural_close(Model* model) { delete model; }
}
