# SPDX-License-Identifier: MIT
"""``python -m gruengine``: the command line."""

import sys

from gruengine.cli import main

sys.exit(main())
