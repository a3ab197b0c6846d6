// SPDX-License-Identifier: MIT
// Training on every instruction set gives what the plain one gives, which Python compares with
// float64 differences; products and updates are compared with sums in float64.
#include <cmath>
#include <cstdio>
#include <string>

#include "check.h"
#include "gruengine/isa.h"
#include "gruengine/training.h"
#include "gruengine/training_math.h"
#include "kernel_cases.h"

namespace gruengine::test {
namespace {

double worst(const Floats& a, const Floats& b) {
  double error = 0, size = 1e-6;
  for (size_t i = 0; i < a.size(); ++i) {
    error = std::max(error, std::abs(double{a[i]} - double{b[i]}));
    size = std::max(size, std::abs(double{b[i]}));
    if (!(a[i] == a[i])) return 1e30;
  }
  return error / size;
}

struct Layer {
  RecurrentAttributes attributes;
  int64_t T, N, I, H, K;
  bool lengths, peepholes;
};

// Everything that a forward and a backward pass write, in one row.
Floats run(const Layer& layer, int threads) {
  random_engine().seed(99);
  const RecurrentTraining training(layer.attributes, layer.I, layer.H, threads);
  const int64_t D = training.directions(), G = training.gates(), T = layer.T, N = layer.N,
                I = layer.I, H = layer.H, K = layer.K;
  const bool lstm = training.is_lstm(), projected = K != H;
  const auto w = random_floats(D * G * H * I, 0.4f), r = random_floats(D * G * H * K, 0.4f),
             b = random_floats(D * 2 * G * H, 0.4f), p = random_floats(D * 3 * H, 0.4f),
             projection = random_floats(D * K * H, 0.4f), x = random_floats(T * N * I, 1.0f),
             h0 = random_floats(D * N * K, 1.0f), c0 = random_floats(D * N * H, 1.0f),
             dy = random_floats(T * N * D * K, 1.0f), dh = random_floats(D * N * K, 1.0f),
             dc = random_floats(D * N * H, 1.0f);
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < N; ++i) lengths.push_back((i * 7 + 3) % (T + 1));
  Floats y(T * N * D * K), h(D * N * K), c(D * N * H), dx(x.size()), dw(w.size()), dr(r.size()),
      db(b.size()), dp(p.size()), dprojection(projection.size()), dh0(h.size()), dc0(c.size());
  const RecurrentTraining::Weights weights{w.data(),
                                           r.data(),
                                           b.data(),
                                           layer.peepholes ? p.data() : nullptr,
                                           projected ? projection.data() : nullptr,
                                           K};
  const auto tape = training.forward(weights,
                                     {T, N, x.data(), h0.data(), lstm ? c0.data() : nullptr,
                                      layer.lengths ? lengths.data() : nullptr},
                                     {y.data(), h.data(), lstm ? c.data() : nullptr});
  training.backward(
      *tape, {dy.data(), dh.data(), lstm ? dc.data() : nullptr},
      {dx.data(), dw.data(), dr.data(), db.data(), layer.peepholes ? dp.data() : nullptr,
       projected ? dprojection.data() : nullptr, dh0.data(), lstm ? dc0.data() : nullptr});
  Floats all;
  for (const Floats* part : {&y, &h, &c, &dx, &dw, &dr, &db, &dp, &dprojection, &dh0, &dc0}) {
    all.insert(all.end(), part->begin(), part->end());
  }
  return all;
}

std::vector<Layer> layers() {
  std::vector<Layer> all;
  const auto add = [&](RecurrentAttributes a, int64_t T, int64_t N, int64_t I, int64_t H, int64_t K,
                       bool lengths, bool peepholes) {
    all.push_back({std::move(a), T, N, I, H, K, lengths, peepholes});
  };
  RecurrentAttributes lstm, gru, rnn;
  lstm.cell = "lstm";
  gru.cell = "gru";
  rnn.cell = "rnn";
  add(lstm, 5, 7, 9, 37, 37, false, true);
  add(rnn, 5, 9, 4, 70, 70, true, false);
  lstm.direction = gru.direction = "bidirectional";
  lstm.coupled = true;
  add(lstm, 4, 3, 3, 19, 6, true, false);
  add(gru, 6, 5, 8, 33, 33, true, false);
  gru.reset = "before";
  gru.update = "take";
  gru.clip = 0.5;
  add(gru, 4, 11, 5, 18, 18, false, false);
  return all;
}

void test_layers() {
  for (const Layer& layer : layers()) {
    force_isa("scalar");
    const Floats plain = run(layer, 1);
    for (const IsaStatus& isa : available_isas()) {
      if (!isa.supported) continue;
      force_isa(isa.name);
      const Floats found = run(layer, 1);
      const char* cell = layer.attributes.cell.c_str();
      CHECK(worst(found, plain) < 2e-5, "%s on %s", cell, isa.name.c_str());
      CHECK(same_bits(run(layer, 2).data(), found.data(), static_cast<int64_t>(found.size())),
            "%s on %s with 2 threads", cell, isa.name.c_str());
    }
  }
  force_isa("");
}

void test_products() {
  for (const IsaStatus& isa : available_isas()) {
    if (!isa.supported) continue;
    force_isa(isa.name);
    for (const bool ta : {false, true}) {
      for (const bool tb : {false, true}) {
        const int64_t m = 21, n = 43, k = 150;
        const Floats a = random_floats(m * k, 1.0f), b = random_floats(k * n, 1.0f);
        Floats c(static_cast<size_t>(m * n)), exact(c.size());
        for (int64_t i = 0; i < m; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            double sum = 0;
            for (int64_t l = 0; l < k; ++l) {
              sum += double{a[static_cast<size_t>(ta ? l * m + i : i * k + l)]} *
                     double{b[static_cast<size_t>(tb ? j * k + l : l * n + j)]};
            }
            exact[static_cast<size_t>(i * n + j)] = static_cast<float>(sum);
          }
        }
        matmul({m, n, k, a.data(), b.data(), ta, tb, nullptr, false, c.data()}, 1);
        CHECK(worst(c, exact) < 2e-6, "%s %d%d", isa.name.c_str(), ta, tb);
        matmul({m, n, k, a.data(), b.data(), ta, tb, nullptr, true, c.data()}, 2);
        for (float& e : exact) e *= 2;
        CHECK(worst(c, exact) < 2e-6, "%s %d%d, added", isa.name.c_str(), ta, tb);
      }
    }
  }
  force_isa("");
}

void test_adam() {
  for (const IsaStatus& isa : available_isas()) {
    if (!isa.supported) continue;
    force_isa(isa.name);
    const int64_t n = 37;
    Floats w = random_floats(n, 1.0f), m(37), v(37), expected = w;
    const Floats g = random_floats(n, 1.0f);
    for (int64_t i = 0; i < n; ++i) {  // the first step is the sign of the gradient
      expected[static_cast<size_t>(i)] -= std::copysign(0.01f, g[static_cast<size_t>(i)]);
    }
    adam({n, w.data(), g.data(), m.data(), v.data(), 0.5f, 0.01, 0.9, 0.999, 1e-12, 0.0, false,
          false, 1},
         1);
    CHECK(worst(w, expected) < 1e-5, "%s", isa.name.c_str());
  }
  force_isa("");
}

}  // namespace
}  // namespace gruengine::test

int main() {
  gruengine::test::test_layers();
  gruengine::test::test_products();
  gruengine::test::test_adam();
  return REPORT();
}
