# SPDX-License-Identifier: MIT
"""``gruengine.torch.accelerate``: the model stays what it was, PyTorch runs where it is needed."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch_pairs import H, I, assert_same, pair, quiet_engine, states

import gruengine as gr
from gruengine import _call


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(5)


# -- the model stays what it was ------------------------------------------------------------------


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, I)
        self.rnn = nn.LSTM(I, H, 2, batch_first=True, bidirectional=True, dropout=0.5)
        self.cells = nn.ModuleList([nn.GRUCell(2 * H, H)])
        self.out = nn.Linear(H, 4)

    def forward(self, x):
        y, _ = self.rnn(self.embed(x))
        return self.out(self.cells[0](y[:, -1]))


def test_names_copies_and_pickles():
    original, ours = pair(Tagger())
    x = torch.randint(0, 50, (3, 9))
    assert list(ours.state_dict()) == list(original.state_dict())
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in original.named_parameters()]
    assert isinstance(ours.rnn, nn.LSTM)
    with torch.no_grad():
        expected = original(x)
        assert_same(quiet_engine(ours, x), expected)
        assert_same(quiet_engine(copy.deepcopy(ours), x), expected)
        file = io.BytesIO()
        torch.save(ours, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
        assert_same(quiet_engine(again, x), expected)
        plain = Tagger().eval()
        plain.load_state_dict(ours.state_dict())
        assert_same(plain(x), expected)


def test_revert():
    original, ours = pair(Tagger())
    gr.torch.revert(ours)
    assert [type(one) for one in ours.modules()] == [type(one) for one in original.modules()]
    assert set(vars(ours.rnn)) == set(vars(original.rnn))
    x = torch.randint(0, 50, (3, 9))
    with torch.no_grad():
        assert torch.equal(ours(x), original(x))


def test_the_root_itself_and_twice():
    cell = nn.LSTMCell(I, H)
    assert gr.torch.accelerate(gr.torch.accelerate(cell), num_threads=2) is cell
    assert gr.torch.revert(cell) is cell
    assert type(cell) is nn.LSTMCell


def change_by_optimizer(module):
    optimizer = torch.optim.SGD(module.parameters(), 0.5)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def change_by_load(module):
    module.load_state_dict({k: v + 0.25 for k, v in module.state_dict().items()})


def change_by_data(module):
    module.weight_hh.data = module.weight_hh.data * 2


def change_in_data(module):
    module.weight_ih.data.mul_(0.5)


def change_by_assignment(module):
    module.bias_ih = nn.Parameter(torch.randn(4 * H))


def change_in_place(module):
    with torch.no_grad():
        module.bias_hh[3] += 1


@pytest.mark.parametrize("change", [
    change_by_optimizer, change_by_load, change_by_data, change_in_data, change_by_assignment,
    change_in_place,
])  # fmt: skip
@pytest.mark.parametrize("attributes", [False, True])
def test_changed_parameters(change, attributes):
    original, ours = pair(nn.LSTMCell(I, H))
    x, hx = torch.randn(3, I), states("lstm", 3)
    _call.use_attributes(attributes)
    try:
        with torch.no_grad():
            before = quiet_engine(ours, x, hx)
        for module in (original, ours):
            torch.manual_seed(11)
            change(module)
        with torch.no_grad():
            after = quiet_engine(ours, x, hx)
            assert_same(after, original(x, hx))
        assert (after[0] - before[0]).abs().max() > 1e-3
    finally:
        _call.use_attributes(False)


# -- PyTorch where it is needed -------------------------------------------------------------------


def falls_back(reason, original, ours, *arguments):
    with pytest.warns(UserWarning, match=reason):
        found = ours(*arguments)
    assert_same(found, original(*arguments))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(ours(*arguments), original(*arguments))  # one warning is enough
    return found


@pytest.mark.parametrize("which", range(3))
def test_gradients_of_inputs(which):
    cell, ours = pair(nn.LSTMCell(I, H).requires_grad_(False))
    arguments = [torch.randn(2, I), torch.randn(2, H), torch.randn(2, H)]
    arguments[which].requires_grad_(True)
    x, h, c = arguments
    found = falls_back("gradients of a cell are wanted", cell, ours, x, (h, c))
    assert found[0].requires_grad


def test_float64():
    original, ours = pair(nn.GRU(I, H).double())
    with torch.no_grad():
        found = falls_back("torch.float64", original, ours, torch.randn(3, 2, I).double())
        assert found[0].dtype is torch.float64


def test_dropout():
    original, ours = pair(nn.LSTM(I, H, 2, dropout=0.5))
    ours.train(), original.train()
    x = torch.randn(3, 2, I)
    with torch.no_grad():
        torch.manual_seed(1)
        with pytest.warns(UserWarning, match="dropout"):
            found = ours(x)
        torch.manual_seed(1)
        assert_same(found, original(x))
        assert_same(quiet_engine(ours.eval(), x), original.eval()(x))


def test_autocast():
    original, ours = pair(nn.LSTMCell(I, H))
    x = torch.randn(3, I)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        with pytest.warns(UserWarning, match="autocast"):
            found = ours(x)
        assert [one.dtype for one in found] == [one.dtype for one in original(x)]


def test_weight_norm():
    module = nn.utils.parametrizations.weight_norm(nn.LSTM(I, H), "weight_hh_l0")
    with pytest.raises(gr.InvalidInputError, match="no recurrent layer"):
        gr.torch.accelerate(module)
    original, ours = pair(nn.LSTM(I, H))
    for one in (original, ours):
        one.requires_grad_(False)
        del one._parameters["weight_hh_l0"]
        one._flat_weights_names.remove("weight_hh_l0")
        one.weight_hh_l0 = torch.ones(4 * H, H)
    with pytest.warns(UserWarning, match="its parameters are"), pytest.raises(RuntimeError):
        ours(torch.randn(3, 2, I))


@pytest.mark.parametrize(("module", "arguments"), [
    (nn.LSTM(I, H), (torch.zeros(3, 2, I + 1),)),
    (nn.LSTM(I, H), (torch.zeros(3, 2, I), (torch.zeros(1, 3, H), torch.zeros(1, 2, H)))),
    (nn.LSTM(I, H), (torch.zeros(3, 2, I), (torch.zeros(1, 2, H), torch.zeros(2, 2, H)))),
    (nn.GRU(I, H), (torch.zeros(0, 2, I),)),
    (nn.GRU(I, H), (torch.zeros(2, 3, 2, I),)),
    (nn.RNNCell(I, H), (torch.zeros(2, I), torch.zeros(3, H))),
    (nn.LSTMCell(I, H), (torch.zeros(2, I + 1),)),
    (nn.LSTMCell(I, H), (torch.zeros(2, I), (torch.zeros(2, H), torch.zeros(2, H + 1)))),
    (nn.GRUCell(I, H), (torch.zeros(2, 2, 2, I),)),
])  # fmt: skip
def test_errors_are_those_of_pytorch(module, arguments):
    original, ours = pair(module)
    with torch.no_grad():
        with pytest.raises((RuntimeError, ValueError)) as expected:
            original(*arguments)
        with pytest.raises((RuntimeError, ValueError)) as found:
            ours(*arguments)
    assert str(found.value) == str(expected.value)


def test_empty_batches():
    original, ours = pair(nn.GRUCell(I, H))
    with torch.no_grad():
        assert ours(torch.zeros(0, I)).shape == original(torch.zeros(0, I)).shape == (0, H)


def test_hooks():
    _, ours = pair(nn.GRUCell(I, H))
    seen = []
    x = torch.randn(2, I)
    with torch.no_grad():
        handle = ours.register_forward_hook(lambda module, inputs, output: seen.append(output))
        y = ours(x)
        assert seen[0] is y
        handle.remove()
        handle = ours.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0,))
        assert_same(ours(x), ours.forward(x * 0))
        handle.remove()
        nn.modules.module.register_module_forward_hook(lambda *a: seen.append(0)).remove()
        ours(x)
    assert len(seen) == 1


@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning"
)
@pytest.mark.parametrize("cls", [nn.GRU, nn.GRUCell])
def test_tracing_records_the_module_itself(cls):
    original, ours = pair(cls(I, H))
    shape = (4, 2, I) if cls is nn.GRU else (2, I)
    with torch.no_grad():
        traced = torch.jit.trace(ours, torch.zeros(shape), check_trace=False)
        x = torch.randn(shape)
        assert_same(traced(x), original(x))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap():
    original, ours = pair(nn.GRUCell(I, H))
    x = torch.randn(5, 2, I)
    with torch.no_grad():
        assert_same(torch.func.vmap(ours)(x), torch.func.vmap(original)(x))


# -- the door -------------------------------------------------------------------------------------


def test_what_accelerate_refuses():
    with pytest.raises(gr.InvalidInputError, match="no recurrent layer in this Linear"):
        gr.torch.accelerate(nn.Linear(2, 2))
    with pytest.raises(gr.InvalidTypeError, match="ndarray"):
        gr.torch.accelerate(np.zeros(3))
    with pytest.raises(gr.UnsupportedError, match="int3"):
        gr.torch.accelerate(nn.GRU(2, 2), compute_type="int3")
    for threads in (0, True, 1.5):
        with pytest.raises(gr.InvalidInputError, match="num_threads"):
            gr.torch.accelerate(nn.GRU(2, 2), num_threads=threads)


def test_subclasses_are_left_alone():
    class Own(nn.LSTM):
        pass

    model = nn.ModuleList([Own(I, H), nn.LSTM(I, H)])
    gr.torch.accelerate(model)
    assert type(model[0]) is Own
    assert type(model[1]) is gr.torch.LSTM


def test_torch_is_imported_when_it_is_asked_for(tmp_path):
    program = (
        "import sys, gruengine as gr; assert 'torch' not in sys.modules; gr.torch; "
        "assert 'torch' in sys.modules and gr.torch.accelerate"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    with pytest.raises(AttributeError, match="nothing"):
        gr.nothing  # noqa: B018
