# SPDX-License-Identifier: MIT
"""``python setup.py build_ext --inplace``: needs Cython, setuptools and the installed package."""

from Cython.Build import cythonize
from setuptools import Extension, setup

setup(name="loudness", ext_modules=cythonize([Extension("loudness", ["loudness.pyx"])]))
