# SPDX-License-Identifier: MIT
"""OpenVINO asked for bfloat16."""

from __future__ import annotations

from benchmarks.cases import Case
from benchmarks.peers import Runner, openvino

COMPUTE_TYPE = "bfloat16"
version = openvino.version
missing = openvino.missing


def prepare(case: Case) -> Runner | None:
    """Return a request for one stack."""
    return openvino.prepare(case, "bf16")
