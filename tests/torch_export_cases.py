# SPDX-License-Identifier: MIT
"""Forwards of every kind for the tests of traced modules: name -> (module, example inputs)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

Case = tuple[nn.Module, tuple[Any, ...]]
CASES: dict[str, Callable[[], Case]] = {}


class Function(nn.Module):  # type: ignore[misc]
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: torch.Tensor) -> Any:
        return self.function(*args)


def wave(*shape: int) -> torch.Tensor:
    """Numbers in (-2, 2) that don't repeat, and no zero."""
    return 2 * torch.sin(torch.arange(1, 1 + math.prod(shape)) * 1.7).reshape(shape)


def positive(*shape: int) -> torch.Tensor:
    return wave(*shape).abs() + 0.1


def add(name: str, function: Callable[..., Any], *inputs: Callable[[], torch.Tensor]) -> None:
    def case() -> Case:
        return Function(function), tuple(one() for one in inputs)

    assert name not in CASES
    CASES[name] = case


def x(*shape: int) -> Callable[[], torch.Tensor]:
    return lambda: wave(*shape)


def ints(high: int, *shape: int) -> Callable[[], torch.Tensor]:
    return lambda: torch.arange(math.prod(shape)).reshape(shape) * 7 % high


# -- element by element ---------------------------------------------------------------------------

ELEMENTWISE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "relu6": F.relu6,
    "leaky": lambda a: F.leaky_relu(a, 0.3),
    "elu": F.elu,
    "elu_alpha": lambda a: F.elu(a, 0.7),
    "selu": F.selu,
    "celu": lambda a: F.celu(a, 0.6),
    "gelu": F.gelu,
    "gelu_tanh": lambda a: F.gelu(a, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": lambda a: F.hardtanh(a, -0.4, 0.9),
    "softplus": F.softplus,
    "softplus_beta": lambda a: F.softplus(a, 3.0, 25.0),
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "logsigmoid": F.logsigmoid,
    "threshold": lambda a: F.threshold(a, 0.2, -3.0),
    "rrelu": F.rrelu,
    "glu": lambda a: F.glu(a[..., :4]),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "log": lambda a: torch.log(a.abs()),
    "log1p": lambda a: torch.log1p(a.abs()),
    "expm1": torch.expm1,
    "log2": lambda a: a.abs().log2(),
    "log10": lambda a: a.abs().log10(),
    "exp2": torch.exp2,
    "sqrt": lambda a: a.abs().sqrt(),
    "rsqrt": lambda a: a.abs().rsqrt(),
    "reciprocal": torch.reciprocal,
    "neg": lambda a: -a,
    "abs": torch.abs,
    "sign": torch.sign,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "trunc": torch.trunc,
    "frac": torch.frac,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "erf": torch.erf,
    "square": torch.square,
    "pow3": lambda a: a**3,
    "pow_half": lambda a: a.abs() ** 0.5,
    "pow_of": lambda a: 2.0**a,
    "pow_minus": lambda a: a**-1,
    "pow_two": lambda a: a.abs() ** a,
    "clamp": lambda a: a.clamp(-0.5, 1.0),
    "clamp_min": lambda a: a.clamp(min=0.1),
    "clamp_max": lambda a: a.clamp(max=0.1),
    "clamp_tensor": lambda a: torch.clamp(a, a * 0.5),
    "rsub": lambda a: 1 - a,
    "add_alpha": lambda a: torch.add(a, a, alpha=0.3),
    "sub_alpha": lambda a: torch.sub(a, a.tanh(), alpha=2),
    "div": lambda a: a / 3,
    "div_of": lambda a: 1 / (2 + a),
    "div_floor": lambda a: torch.div(a, 0.3, rounding_mode="floor"),
    "div_trunc": lambda a: torch.div(a, 0.3, rounding_mode="trunc"),
    "remainder": lambda a: a % 0.7,
    "fmod": lambda a: torch.fmod(a, 0.7),
    "maximum": lambda a: torch.maximum(a, -a),
    "minimum": lambda a: torch.minimum(a, a * a),
    "where": lambda a: torch.where(a > 0, a, a * 0.1),
    "where_scalar": lambda a: torch.where(a.abs() < 1, a, 0.0),
    "lerp": lambda a: a.lerp(-a, 0.3),
    "masked_fill": lambda a: a.masked_fill(a < -1, -math.inf),
    "nan_to_num": torch.nan_to_num,
    "addcmul": lambda a: torch.addcmul(a, a, a, value=0.2),
    "isnan": lambda a: torch.isnan(a.log()),
    "compare": lambda a: ((a >= 0) & (a <= 1)) | (a.eq(2)) | ~(a > -1),
    "compare_ne": lambda a: (a != a.round()).float() * 2 + (a < 1).long(),
    "logical": lambda a: torch.logical_xor(a, a > 0),
    "bool": lambda a: (a > 0).to(torch.float32),
    "int": lambda a: (a * 10).int() // 3 + (a * 10).long() % 4,
    "type": lambda a: a.double().float(),
    "softmax": lambda a: F.softmax(a, 1),
    "log_softmax": lambda a: F.log_softmax(a, -1),
    "softmin": lambda a: F.softmin(a, -1),
    "sum": lambda a: a.sum(),
    "mean": lambda a: a.mean(-1),
    "mean_keep": lambda a: a.mean((0, 2), keepdim=True),
    "amax": lambda a: a.amax(1),
    "amin": lambda a: a.amin((1, 2)),
    "max_all": lambda a: a.max(),
    "max": lambda a: a.max(-1)[0],
    "min": lambda a: a.min(1, keepdim=True).values,
    "prod": lambda a: a.prod(2),
    "var": lambda a: a.var(-1),
    "std": lambda a: a.std((1, 2), unbiased=False),
    "var_mean": lambda a: torch.var_mean(a, 1)[0] + torch.var_mean(a, 1, keepdim=True)[1][:, 0],
    "norm": lambda a: a.norm(dim=-1),
    "norm1": lambda a: a.norm(1, dim=1, keepdim=True),
    "norm_inf": lambda a: torch.linalg.vector_norm(a, math.inf, dim=2),
    "normalize": lambda a: F.normalize(a, dim=-1),
    "logsumexp": lambda a: a.logsumexp(1),
    "any": lambda a: (a > 1.5).any(-1).float() + (a > -3).all(1)[:, :1].float(),
    "cosine": lambda a: F.cosine_similarity(a, a.flip(1), dim=-1),
    "sum_int": lambda a: a.long().sum(1),
    "rms": lambda a: a * torch.rsqrt(a.pow(2).mean(-1, keepdim=True) + 1e-6),
}


class Many(nn.Module):  # type: ignore[misc]
    """Several functions of one input; each result has the name of its function."""

    def __init__(self, functions: dict[str, Callable[[torch.Tensor], torch.Tensor]]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, a: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: function(a) for name, function in self.functions.items()}


def _many(start: int) -> Callable[[], Case]:
    names = list(ELEMENTWISE)[start : start + 20]
    return lambda: (Many({name: ELEMENTWISE[name] for name in names}), (wave(3, 4, 6),))


# A trace costs more than what is in it.
for _start in range(0, len(ELEMENTWISE), 20):
    CASES[f"elementwise_{_start}"] = _many(_start)

# -- shapes ---------------------------------------------------------------------------------------

SHAPES: dict[str, Callable[[torch.Tensor], Any]] = {
    "view": lambda a: a.view(a.shape[0], -1),
    "view_split": lambda a: a.view(*a.shape[:2], 2, 3),
    "view_merge": lambda a: a.reshape(a.shape[0] * a.shape[1], 6),
    "view_unmerge": lambda a: a.reshape(-1, 6).tanh().view(a.shape[0], a.shape[1], 6),
    "flatten": lambda a: a.flatten(1),
    "unflatten": lambda a: a.unflatten(2, (3, 2)),
    "permute": lambda a: a.permute(2, 0, 1),
    "transpose": lambda a: a.transpose(1, 2).transpose(0, 2),
    "t": lambda a: a[0].t(),
    "mt": lambda a: a.mT,
    "movedim": lambda a: a.movedim(0, -1),
    "unsqueeze": lambda a: a.unsqueeze(1).unsqueeze(-1),
    "squeeze": lambda a: a[:, :, :1].squeeze(-1),
    "expand": lambda a: a[:, :1].expand(-1, 5, -1),
    "expand_as": lambda a: a[:1].expand_as(a) + 1,
    "repeat": lambda a: a.repeat(1, 2, 3),
    "tile": lambda a: a.tile(2),
    "repeat_interleave": lambda a: a.repeat_interleave(3, 2),
    "chunk": lambda a: a.chunk(2, 2),
    "split": lambda a: a.split(4, dim=2),
    "split_sizes": lambda a: a.split([1, 2, 3], 2)[1],
    "unbind": lambda a: a.unbind(2)[1] + a[..., 0],
    "select": lambda a: a[:, -1] + a[:, 0],
    "slice": lambda a: a[:, 1:, ::2],
    "slice_end": lambda a: a[:, :-1, 1:-1],
    "narrow": lambda a: a.narrow(2, 1, 3),
    "cat": lambda a: torch.cat([a, a * 2, a[:, :1]], 1),
    "stack": lambda a: torch.stack([a, -a], 2),
    "flip": lambda a: a.flip(1, 2),
    "roll": lambda a: a.roll(2, -1),
    "pad": lambda a: F.pad(a, (1, 2, 0, 1), value=0.5),
    "pad_reflect": lambda a: F.pad(a, (2, 1), mode="reflect"),
    "pad_replicate": lambda a: F.pad(a, (1, 3), mode="replicate"),
    "pad_negative": lambda a: F.pad(a, (-1, 2)),
    "unfold": lambda a: a.unfold(2, 3, 2),
    "unfold_time": lambda a: a.unfold(1, 2, 1),
    "index_select": lambda a: a.index_select(2, torch.tensor([4, 0, 0])),
    "index": lambda a: a[:, :, [5, 1]],
    "index_rows": lambda a: a[torch.arange(a.shape[0]), -1],
    "index_pairs": lambda a: a[:, [0, -1], [2, 3]],
    "zeros": lambda a: a + torch.zeros(6),
    "zeros_like": lambda a: torch.zeros_like(a[:, :, :2]) + a[..., 2:4],
    "full": lambda a: torch.full((a.shape[0], 2), 1.5) * a[:, 0, :2],
    "ones": lambda a: torch.ones(a.shape[1]).cos()[:, None] * a,
    "arange": lambda a: a + torch.arange(a.shape[1])[:, None],
    "eye": lambda a: a @ torch.eye(6),
    "arange_float": lambda a: a * torch.arange(0, 3, 0.5),
    "linspace": lambda a: a * torch.linspace(0, 1, 6),
    "tril": lambda a: (a @ a.mT).tril(),
    "triu": lambda a: torch.triu(a, 1),
    "write": lambda a: write(a),
    "write_step": lambda a: write_step(a),
    "in_place": lambda a: a.clone().mul_(2).add_(1).clamp_(0, 3),
    "size_arithmetic": lambda a: a / a.shape[1] + a.size(0) * a.shape[1] // 2,
    "matmul": lambda a: a @ a.transpose(1, 2),
    "mv": lambda a: a @ a[0, 0],
    "bmm": lambda a: torch.bmm(a, a.mT),
    "addmm": lambda a: torch.addmm(a[0, 0], a[0], a[0, :1].T @ a[0, :1], beta=0.5, alpha=2),
    "baddbmm": lambda a: torch.baddbmm(a, a @ a.mT, a),
    "outer": lambda a: torch.outer(a[0, 0], a[1, 1]),
    "einsum": lambda a: torch.einsum("bti,bsi->bts", a, a.tanh()),
    "einsum_mixed": lambda a: torch.einsum("bti,i->tb", a, a[0, 0]),
    "constant": lambda a: a * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    "nothing": lambda a: a,
    "two": lambda a: (a, a),
    "nested": lambda a: {"p": (a, -a), "q": [a * 2]},
    "dropout": lambda a: F.dropout(a, 0.5, training=False),
    "meshgrid": lambda a: torch.meshgrid(a[0, 0], a[0, 1], indexing="ij")[0],
}


def write(a: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(a.shape[0], 4, 6)
    out[:, 1:3] = a[:, :2]
    out[:, 3] = a[:, 0] * 2
    return out


def write_step(a: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(a)
    for i in range(6):
        out[:, :, i] = a[:, :, 5 - i] * i
    return out


for _name, _shape in SHAPES.items():
    add(f"shape_{_name}", _shape, x(3, 4, 6))

MORE: dict[str, Callable[[torch.Tensor], Any]] = {
    "cumsum": lambda a: a.cumsum(1),
    "argmax": lambda a: (a.argmax(-1), a.argmin(1, keepdim=True), a.argmax()),
    "max_place": lambda a: a.max(-1),
    "topk": lambda a: a.topk(3, -1),
    "topk_small": lambda a: a.topk(2, 1, largest=False)[0],
    "sort": lambda a: a.sort(-1, descending=True),
    "sort_up": lambda a: a.sort(1)[0],
    "gather": lambda a: a.gather(
        2, torch.tensor([[[4, 0, 1, 1]] * 4] * 1).expand(a.shape[0], 4, 4)
    ),
    "gather_time": lambda a: a.gather(1, torch.ones(a.shape[0], 1, 6, dtype=torch.long)),
    "put": lambda a: put(a),
    "put_mask": lambda a: put_mask(a),
    "conv_transpose": lambda a: F.conv_transpose1d(
        a, positive(4, 3, 5), stride=2, padding=1, output_padding=1, dilation=2
    ),
    "conv_transpose2d": lambda a: F.conv_transpose2d(
        a[:, :, None], positive(4, 1, 3, 2), positive(2), groups=2
    ),
}


def put(a: torch.Tensor) -> torch.Tensor:
    out = a * 1
    out[torch.arange(a.shape[0]), torch.ones(a.shape[0], dtype=torch.long)] = a[:, 0] * 3
    return out


def put_mask(a: torch.Tensor) -> torch.Tensor:
    out = a * 1
    out[a > 1] = 0.5
    return out


for _name, _shape in MORE.items():
    add(_name, _shape, x(3, 4, 6))

add("two_inputs", lambda a, b: torch.cat([a, b], 1).cumsum(1)[:, -1], x(3, 4), x(3, 5))
add("broadcast", lambda a, b: a * b + b, x(3, 4, 6), x(6))
add("embedding", lambda i: F.embedding(i, wave(11, 4), padding_idx=0), ints(11, 3, 5))
add("one_hot", lambda i: F.one_hot(i, 5).float() @ wave(5, 2), ints(5, 3, 4))
add("mask", lambda a, i: a * (torch.arange(a.shape[1])[None] < i[:, None])[..., None],
    x(3, 4, 6), ints(4, 3))  # fmt: skip
add("last_valid", lambda a, i: a[torch.arange(a.shape[0]), i - 1], x(3, 4, 6), ints(4, 3))
add(
    "attention",
    lambda q, k: F.scaled_dot_product_attention(q, k, k * 2),
    x(2, 3, 4, 6),
    x(2, 3, 5, 6),
)
add(
    "attention_causal",
    lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True),
    x(2, 3, 4, 6),
)
add("attention_mask", lambda q, m: F.scaled_dot_product_attention(q, q, q, m > 0, scale=0.4),
    x(2, 3, 4, 6), lambda: torch.ones(4, 4).tril())  # fmt: skip
