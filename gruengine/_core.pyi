# SPDX-License-Identifier: MIT
# The compiled engine; used by gruengine.model, gruengine.runtime and the training modules.
from typing import Any

import numpy as np

_Array = np.ndarray[Any, Any]
_Port = tuple[str, str, tuple[int | str, ...]]

class Model:
    @staticmethod
    def open(path: str, num_threads: int, compute_type: str | None = ...) -> Model: ...
    @staticmethod
    def from_memory(data: bytes, num_threads: int, compute_type: str | None = ...) -> Model: ...
    def run(self, inputs: list[_Array]) -> list[_Array]: ...
    def run_from(
        self,
        inputs: list[_Array],
        lengths: list[int] | None,
        state: bytes | None,
        wants_state: bool = ...,
    ) -> tuple[list[_Array], bytes | None]: ...
    def state_layout(
        self, inputs: list[list[int]]
    ) -> list[tuple[str, str, tuple[int, ...], int]]: ...
    @property
    def inputs(self) -> list[_Port]: ...
    @property
    def outputs(self) -> list[_Port]: ...
    @property
    def state_pairs(self) -> list[tuple[str, str]]: ...
    @property
    def streaming(self) -> dict[str, Any]: ...
    @property
    def hash(self) -> str: ...
    @property
    def provenance(self) -> str: ...
    @property
    def isa(self) -> str: ...
    @property
    def num_threads(self) -> int: ...
    @property
    def compute_type(self) -> str: ...
    @property
    def packed_bytes(self) -> int: ...
    @property
    def parity_inputs(self) -> dict[str, _Array]: ...
    @property
    def parity_outputs(self) -> dict[str, _Array]: ...
    @property
    def parity_oracle(self) -> str: ...
    def file(self) -> bytes: ...
    def _capsule(self) -> object: ...

class RecurrentTape:
    @property
    def steps(self) -> int: ...
    @property
    def rows(self) -> int: ...

class RecurrentTraining:
    def __init__(
        self,
        attributes: dict[str, Any],
        input_size: int,
        hidden_size: int,
        num_threads: int = ...,
        compute_type: str = ...,
    ) -> None: ...
    def forward(
        self,
        x: _Array,
        W: _Array,
        R: _Array,
        B: _Array | None = ...,
        P: _Array | None = ...,
        projection: _Array | None = ...,
        h0: _Array | None = ...,
        c0: _Array | None = ...,
        lengths: _Array | None = ...,
        gate_recurrence: _Array | None = ...,
        norm: _Array | None = ...,
        skip: _Array | None = ...,
        recurrent_mask: _Array | None = ...,
        keep_h: _Array | None = ...,
        keep_c: _Array | None = ...,
    ) -> tuple[_Array, _Array, _Array | None, RecurrentTape]: ...
    def backward(
        self,
        tape: RecurrentTape,
        dy: _Array | None = ...,
        dh: _Array | None = ...,
        dc: _Array | None = ...,
        input_gradient: bool = ...,
    ) -> tuple[
        _Array | None,
        _Array,
        _Array,
        _Array | None,
        _Array | None,
        _Array | None,
        _Array | None,
        _Array | None,
        _Array | None,
        _Array,
        _Array | None,
    ]: ...

def train_matmul(
    a: _Array,
    b: _Array,
    a_transposed: bool = ...,
    b_transposed: bool = ...,
    bias: _Array | None = ...,
    out: _Array | None = ...,
    accumulate: bool = ...,
    num_threads: int = ...,
    compute_type: str = ...,
) -> _Array: ...
def train_sum_rows(x: _Array, out: _Array | None = ..., accumulate: bool = ...) -> _Array: ...
def train_embedding_gradient(ids: _Array, dy: _Array, table: _Array) -> None: ...
def train_cross_entropy(
    logits: _Array, targets: _Array, weights: _Array | None = ..., ignored: int = ...
) -> tuple[_Array, _Array]: ...
def train_sum_of_squares(x: _Array) -> float: ...
def train_sgd(
    w: _Array,
    g: _Array,
    m: _Array | None,
    rate: float,
    momentum: float = ...,
    dampening: float = ...,
    nesterov: bool = ...,
    weight_decay: float = ...,
    scale: float = ...,
    num_threads: int = ...,
) -> None: ...
def train_rmsprop(
    w: _Array,
    g: _Array,
    v: _Array,
    m: _Array | None,
    rate: float,
    smoothing: float = ...,
    momentum: float = ...,
    eps: float = ...,
    weight_decay: float = ...,
    scale: float = ...,
    num_threads: int = ...,
) -> None: ...
def train_adam(
    w: _Array,
    g: _Array,
    m: _Array,
    v: _Array,
    step: int,
    rate: float,
    beta1: float = ...,
    beta2: float = ...,
    eps: float = ...,
    weight_decay: float = ...,
    decoupled: bool = ...,
    scale: float = ...,
    num_threads: int = ...,
) -> None: ...
def available_isas() -> list[tuple[str, str, bool, str]]: ...
def current_isa() -> str: ...
def isa_choice() -> str: ...
def force_isa(name: str) -> None: ...
def max_threads() -> int: ...
