# SPDX-License-Identifier: MIT
"""Speed beside peers and beside the bound of the machine: ``python -m benchmarks.run``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The folder `gruengine` of the checkout has no compiled modules: the installed package is meant.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
