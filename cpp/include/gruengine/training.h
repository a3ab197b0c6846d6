// SPDX-License-Identifier: MIT
// Training of recurrent layers: a forward pass that keeps what the backward pass needs.
//
// Arrays are float32, row-major and contiguous. Letters: T time, N batch, I input, H hidden,
// G gates, K size of the output (H, or the size of a projection), D directions. Gate orders and
// attributes are those of the Recurrent operator (docs/architecture.md). Numbers do not depend on
// the number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gruengine/error.h"
#include "gruengine/export.h"
#include "gruengine/model.h"

namespace gruengine {

// The attributes of the Recurrent operator.
struct RecurrentAttributes {
  std::string cell;
  std::string direction = "forward";
  std::vector<std::string> activations;  // empty: those of the operator's default
  std::vector<double> activation_alpha, activation_beta;
  double clip = 0.0;
  bool coupled = false;
  std::string reset = "after";
  std::string update = "keep";
  // What inference keeps of h and c: the share of units that zoneout keeps in training.
  double zoneout_h = 0.0, zoneout_c = 0.0;
  double norm_epsilon = 1e-5;
  double skip_cost = 0.0;  // of training: added to the loss for each update, per row of the batch
};

// Lives from a forward to its backward pass, which uses it up.
class GRUENGINE_API RecurrentTape {
 public:
  struct Data;
  explicit RecurrentTape(std::unique_ptr<Data> data);
  ~RecurrentTape();
  Data& data() const { return *data_; }
  // What the forward pass was given.
  int64_t steps() const;
  int64_t rows() const;

 private:
  std::unique_ptr<Data> data_;
};

class GRUENGINE_API RecurrentTraining {
 public:
  struct Weights {
    const float* w;                          // [D, G*H, I]
    const float* r;                          // [D, G*H, K]
    const float* b;                          // [D, 2*G*H] or nullptr: zeros
    const float* p;                          // [D, 3*H] peepholes i, o, f, or nullptr. LSTM only
    const float* projection;                 // [D, K, H] or nullptr. LSTM only
    int64_t k;                               // K; H without a projection
    const float* gate_recurrence = nullptr;  // [D, 3*H, 3*H], or nullptr. LSTM only
    const float* norm = nullptr;             // [D, 10*H], or nullptr. LSTM only
    const float* skip = nullptr;             // [D, K+1], or nullptr
  };
  // C: the size of the state c. LSTM H; 3*H more of gates fed back; 1 more of steps skipped.
  int64_t cell_size(const Weights& weights) const;
  struct Inputs {
    int64_t steps, rows;                    // T, N
    const float* x;                         // [T, N, I]
    const float* h0;                        // [D, N, K] or nullptr: zeros
    const float* c0;                        // [D, N, C] or nullptr: zeros. Where C > 0 only
    const int64_t* lengths;                 // [N] from 0 to T, or nullptr: all T
    const float* recurrent_mask = nullptr;  // [D, N, K]: multiplies what recurrent products see
    // What zoneout keeps, [D, T, N, K] and (LSTM) [D, T, N, H]: 1 keeps the state, 0 takes the new
    // one. nullptr: the shares of the attributes.
    const float *keep_h = nullptr, *keep_c = nullptr;
  };
  struct Outputs {
    float* y;  // [T, N, D*K]; zero from each length on
    float* h;  // [D, N, K] after the last step of each row; zero where the length is 0
    float* c;  // [D, N, C], the same; nullptr where C is 0
  };
  struct OutputGradients {
    const float* dy;  // [T, N, D*K] or nullptr: zeros
    const float* dh;  // [D, N, K] or nullptr: zeros
    const float* dc;  // [D, N, C] or nullptr: zeros. Where C > 0 only
  };
  // Written, not added to; each may be nullptr where it is not wanted.
  struct Gradients {
    float *dx, *dw, *dr, *db, *dp, *dprojection, *dh0, *dc0;
    float *dgate_recurrence = nullptr, *dnorm = nullptr, *dskip = nullptr;
  };

  // Products are made in `type`, float32 or bfloat16; everything else, and the products with a
  // projection, are float32. Throws Error(kInvalidArgument), Error(kUnsupported).
  RecurrentTraining(const RecurrentAttributes& attributes, int64_t input_size, int64_t hidden_size,
                    int num_threads, ComputeType type = ComputeType::kFloat32);
  ~RecurrentTraining();

  int64_t directions() const;
  int64_t gates() const;
  int64_t input_size() const;
  int64_t hidden_size() const;
  bool is_lstm() const;

  // x and the weights must live, unchanged, until the backward pass.
  // Throws Error(kInvalidArgument) for a length out of range or too little memory.
  std::shared_ptr<RecurrentTape> forward(const Weights& weights, const Inputs& inputs,
                                         const Outputs& outputs) const;
  // Throws Error(kInvalidArgument) when the tape was used already or is another layer's.
  void backward(RecurrentTape& tape, const OutputGradients& outputs,
                const Gradients& gradients) const;

  struct Impl;

 private:
  std::shared_ptr<const Impl> impl_;
};

}  // namespace gruengine
