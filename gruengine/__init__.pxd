# SPDX-License-Identifier: MIT
# The Cython face of the package: ``cimport gruengine``, then ``gruengine.Stream``.

from gruengine._stream cimport Stream
