# SPDX-License-Identifier: MIT
"""Random models that other tools export, converted and compared."""
