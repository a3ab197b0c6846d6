# SPDX-License-Identifier: MIT
"""Cases that are repeated many times by hand, and a few times by the tests."""
