# SPDX-License-Identifier: MIT
# What each function takes and gives stands in _call.pyx; it needs torch.
from typing import Any

class Runner:
    def __init__(
        self,
        core: Any,
        parameters: dict[str, Any],
        sizes: tuple[int, ...],
        is_cell: bool,
        is_lstm: bool,
    ) -> None: ...
    def is_current(self, parameters: dict[str, Any]) -> bool: ...
    def cell(self, parameters: dict[str, Any], x: Any, h: Any, c: Any) -> Any: ...
    def sequence(
        self, parameters: dict[str, Any], x: Any, h: Any, c: Any, lengths: Any = ...
    ) -> Any: ...

class Link:
    runner: Runner | None
    num_threads: int
    warned: set[str]
    compute_type: str
    def __init__(
        self, num_threads: int, warned: set[str] | None = ..., compute_type: str = ...
    ) -> None: ...

def call_cell(self: Any, input: Any, hx: Any = ...) -> Any: ...  # noqa: A002
def call_lstm_cell(self: Any, input: Any, hx: Any = ...) -> Any: ...  # noqa: A002
def use_attributes(yes: bool) -> None: ...
