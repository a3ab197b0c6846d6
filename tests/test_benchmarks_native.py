# SPDX-License-Identifier: MIT
"""Cases from C, with a stand-in for RTNeural: its public calls, in plain loops."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from test_benchmarks import benchmarks, small  # noqa: F401

STAND_IN = r"""
#include <cmath>
#include <tuple>
#include <vector>
namespace RTNeural {
using Rows = std::vector<std::vector<float>>;
inline float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }
template <typename T, int I, int H, int G>
struct Layer {
  void setWVals(const Rows& w) { W = w; }
  void setUVals(const Rows& u) { U = u; }
  void reset() { h.assign(H, 0); c.assign(H, 0); }
  float sum(const T* x, int column, bool of_x, bool of_h) const {
    float found = 0;
    for (int i = 0; i < I && of_x; ++i) found += W[i][column] * x[i];
    for (int i = 0; i < H && of_h; ++i) found += U[i][column] * h[i];
    return found;
  }
  Rows W, U;
  std::vector<float> h, c;
};
template <typename T, int I, int H>
struct LSTMLayerT : Layer<T, I, H, 4> {
  void setBVals(const std::vector<T>& bias) { b = bias; }
  void forward(const T* x) {
    std::vector<float> h(H), z(4 * H);
    for (int k = 0; k < 4 * H; ++k) z[k] = b[k] + this->sum(x, k, true, true);
    for (int k = 0; k < H; ++k) {
      const float i = sigmoid(z[k]), f = sigmoid(z[k + H]), g = std::tanh(z[k + 2 * H]);
      this->c[k] = f * this->c[k] + i * g;
      h[k] = sigmoid(z[k + 3 * H]) * std::tanh(this->c[k]);
    }
    this->h = h;
  }
  std::vector<T> b;
};
template <typename T, int I, int H>
struct GRULayerT : Layer<T, I, H, 3> {
  void setBVals(const Rows& bias) { b = bias; }
  void forward(const T* x) {
    std::vector<float> h(H);
    for (int k = 0; k < H; ++k) {
      const float z = sigmoid(b[0][k] + b[1][k] + this->sum(x, k, true, true));
      const float r = sigmoid(b[0][k + H] + b[1][k + H] + this->sum(x, k + H, true, true));
      const float after = b[1][k + 2 * H] + this->sum(x, k + 2 * H, false, true);
      const float n = std::tanh(b[0][k + 2 * H] + this->sum(x, k + 2 * H, true, false) + r * after);
      h[k] = (1 - z) * n + z * this->h[k];
    }
    this->h = h;
  }
  Rows b;
};
template <typename T, int I, int H, typename L>
struct ModelT {
  template <int> L& get() { return layer; }
  void reset() { layer.reset(); }
  T forward(const T* x) { layer.forward(x); return layer.h[0]; }
  const T* getOutputs() const { return layer.h.data(); }
  L layer;
};
}  // namespace RTNeural
"""


def cases(benchmarks):  # noqa: F811
    stacks = [{"kind": kind, "H": 8, "inputs": I} for kind in ("LSTM", "GRU") for I in (0, 1)]
    changes = {"N": 1, "native": True, "targets": {"rtneural": 1}}
    return [small(benchmarks, stack, **changes) for stack in stacks]


@pytest.fixture
def native(benchmarks, tmp_path, monkeypatch):  # noqa: F811
    """The peer, with the stand-in and one backend whose headers are empty."""
    peer = benchmarks.peers.peer("rtneural")
    for name in ("RTNeural/RTNeural.h", "modules/xsimd/include/xsimd/xsimd.hpp"):
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        file.write_text(STAND_IN if file.name == "RTNeural.h" else "")
    monkeypatch.setattr(peer, "BACKENDS", peer.BACKENDS[:1])
    monkeypatch.setattr(peer, "_widths", lambda: {"": (16, [])})
    monkeypatch.setattr(benchmarks.catalogue, "catalogue", lambda: cases(benchmarks))
    monkeypatch.setenv("GRUENGINE_RTNEURAL", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    peer._libraries.cache_clear()
    if reason := peer.missing():
        pytest.skip(reason)
    yield peer
    peer._libraries.cache_clear()


def test_both_compute_the_same_steps(benchmarks, native):  # noqa: F811
    peers, run = benchmarks.peers, benchmarks.run
    for case in cases(benchmarks):
        ours, theirs = (peers.peer(name).prepare(case) for name in ("ours-native", "rtneural"))
        assert (theirs.detail, ours.steps) == ("xsimd", theirs.steps)
        mine = run.first_outputs(ours)
        run.check(case, "rtneural", mine, run.first_outputs(theirs))
        frames = mine[0].reshape(-1, 8)
        assert np.abs(np.diff(frames, axis=0)).max() > 0.01  # no fixed point hides the gates
    unknown = dataclasses.replace(case, parts=(benchmarks.cases.Stack("LSTM", 7),))
    assert native.prepare(unknown) is None
    assert native.version().endswith("(xsimd)")


def test_a_row_is_the_time_of_a_step(benchmarks, native, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(benchmarks.run, "catalogue", lambda: cases(benchmarks)[-1:])
    monkeypatch.setitem(benchmarks.run.MODES, "quick", (3, 1e-5))
    file = tmp_path / "found.json"
    assert benchmarks.run.main(["--quick", "--json", str(file), "--peers", "rtneural"]) == 0
    (row,) = json.loads(file.read_text())["rows"]
    assert (row["peer"], row["detail"]) == ("rtneural", "xsimd")
    assert 0.01 < row["ours_us"] < 20
    assert "| small | rtneural (xsimd) |" in file.with_suffix(".md").read_text()


def test_without_a_path_it_says_so(benchmarks, tmp_path, monkeypatch):  # noqa: F811
    peer = benchmarks.peers.peer("rtneural")
    monkeypatch.delenv("GRUENGINE_RTNEURAL", raising=False)
    assert "GRUENGINE_RTNEURAL" in peer.missing()
    monkeypatch.setenv("GRUENGINE_RTNEURAL", str(tmp_path))
    assert str(tmp_path) in peer.missing()


def test_a_compiler_that_refuses_is_quoted(benchmarks, native, monkeypatch):  # noqa: F811
    from benchmarks import compiled

    header = Path(os.environ["GRUENGINE_RTNEURAL"], "RTNeural/RTNeural.h")
    header.write_text("#error not today")
    native._libraries.cache_clear()
    assert "rtneural.cpp does not compile" in native.missing()
    with pytest.raises(RuntimeError, match=r"steps.c does not compile: .*gruengine"):
        compiled.library("steps.c", ["-nostdinc"])
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "CC" in compiled.missing()
