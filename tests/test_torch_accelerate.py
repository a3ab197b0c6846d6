# SPDX-License-Identifier: MIT
"""``gruengine.torch.accelerate``: the numbers of PyTorch, and PyTorch where it is needed."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

import gruengine as gr
from gruengine import _call

TOLERANCE = 2e-6
I, H = 7, 11
LAYERS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
CELLS = {"rnn": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(5)


def pair(module):
    """The original and an accelerated copy."""
    module.eval()
    return module, gr.torch.accelerate(copy.deepcopy(module))


def states(kind, *lead, width=H):
    h = torch.randn(*lead, width)
    return (h, torch.randn(*lead, H)) if kind == "lstm" else h


def flat(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, tuple):
        return [one for part in value for one in flat(part)]
    return []


def assert_same(found, expected):
    assert len(flat(found)) == len(flat(expected)) > 0
    for a, b in zip(flat(found), flat(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert (a.double() - b.double()).abs().max() <= TOLERANCE


def quiet_engine(module, *arguments):
    """Call the module; fail if it went to PyTorch."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return module(*arguments)


# -- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("layers", "bias"), [(1, True), (3, True), (2, False)])
def test_layers(kind, bidirectional, batch_first, layers, bias):
    original, ours = pair(
        LAYERS[kind](I, H, layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional)
    )
    rows = layers * (2 if bidirectional else 1)
    with torch.inference_mode():
        for N, T in ((1, 1), (3, 5), (1, 6), (4, 1), (3, 5)):
            x = torch.randn(N, T, I) if batch_first else torch.randn(T, N, I)
            for hx in (None, states(kind, rows, N)):
                found = quiet_engine(ours, x, hx)
                assert_same(found, original(x, hx))
                assert found[0].stride() == original(x, hx)[0].stride()
        x = torch.randn(6, I)
        for hx in (None, states(kind, rows)):
            assert_same(quiet_engine(ours, x, hx), original(x, hx))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projection(bidirectional):
    original, ours = pair(nn.LSTM(I, H, 2, proj_size=5, bidirectional=bidirectional))
    x, rows = torch.randn(6, 3, I), 4 if bidirectional else 2
    with torch.no_grad():
        assert_same(ours(x), original(x))
        hx = states("lstm", rows, 3, width=5)
        assert_same(ours(x, hx), original(x, hx))


def test_relu():
    original, ours = pair(nn.RNN(I, H, 2, nonlinearity="relu"))
    x = torch.randn(6, 3, I)
    with torch.no_grad():
        assert_same(ours(x), original(x))
        original, ours = pair(nn.RNNCell(I, H, nonlinearity="relu"))
        assert_same(ours(x[0]), original(x[0]))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_packed(kind, bidirectional, layers, enforce_sorted):
    original, ours = pair(LAYERS[kind](I, H, layers, bidirectional=bidirectional))
    lengths = (9, 5, 5, 3, 1) if enforce_sorted else (3, 9, 1, 5, 5)
    packed = pack_sequence([torch.randn(n, I) for n in lengths], enforce_sorted=enforce_sorted)
    rows = layers * (2 if bidirectional else 1)
    with torch.inference_mode():
        for hx in (None, states(kind, rows, 5)):
            found, expected = quiet_engine(ours, packed, hx), original(packed, hx)
            assert_same((found[0].data, found[1]), (expected[0].data, expected[1]))
            assert torch.equal(found[0].batch_sizes, expected[0].batch_sizes)
            assert_same(pad_packed_sequence(found[0])[0], pad_packed_sequence(expected[0])[0])


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("attributes", [False, True])
def test_cells(kind, bias, attributes):
    original, ours = pair(CELLS[kind](I, H, bias=bias))
    _call.use_attributes(attributes)
    try:
        with torch.inference_mode():
            for lead in ((1,), (5,), (), (1,)):
                x = torch.randn(*lead, I)
                for hx in (None, states(kind, *lead)):
                    assert_same(quiet_engine(ours, x, hx), original(x, hx))
    finally:
        _call.use_attributes(False)


def test_a_loop_of_steps():
    original, ours = pair(nn.LSTMCell(I, H))
    x = torch.randn(50, 2, I)
    with torch.no_grad():
        a = b = states("lstm", 2)
        for frame in x:
            a, b = original(frame, a), quiet_engine(ours, frame, b)
            assert_same(b, a)


@pytest.mark.parametrize("view", [
    lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    lambda x: torch.cat([x, x], 2)[:, :, :I],
    lambda x: nn.Parameter(x, requires_grad=False),
])  # fmt: skip
def test_any_layout_of_the_input(view):
    original, ours = pair(nn.GRU(I, H))
    x = torch.randn(5, 3, I)
    with torch.no_grad():
        assert_same(quiet_engine(ours, view(x)), original(x))


def test_threads_of_one_module():
    original, ours = pair(nn.LSTM(64, 128, batch_first=True))
    inputs = [torch.randn(2, 40, 64) for _ in range(4)]
    with torch.inference_mode():
        expected = [original(x) for x in inputs]
    found: dict[int, list] = {}

    def work(i):
        with torch.inference_mode():
            found[i] = [ours(inputs[i]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, results in found.items():
        for result in results:
            assert_same(result, expected[i])
    assert len(found) == 4


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


def test_gradients():
    original, ours = pair(nn.LSTM(I, H))
    x = torch.randn(4, 2, I)
    y, _ = falls_back("gradients are wanted", original, ours, x)
    y.sum().backward()
    original(x)[0].sum().backward()
    assert torch.equal(ours.weight_hh_l0.grad, original.weight_hh_l0.grad)
    for one in (original, ours):
        one.requires_grad_(False)
    assert_same(quiet_engine(ours, x), original(x))
    ours.requires_grad_(True)
    assert ours(x)[0].requires_grad


@pytest.mark.parametrize("which", range(3))
def test_gradients_of_inputs(which):
    cell, ours = pair(nn.LSTMCell(I, H).requires_grad_(False))
    arguments = [torch.randn(2, I), torch.randn(2, H), torch.randn(2, H)]
    arguments[which].requires_grad_(True)
    x, h, c = arguments
    found = falls_back("gradients are wanted", cell, ours, x, (h, c))
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
