# SPDX-License-Identifier: MIT
"""The recurrent layers: RNN, LSTM and GRU with their variants.

Letters and the order of gates: see ``layer_recurrent.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gruengine.errors import InvalidInputError
from gruengine.initializers import Chrono, glorot_uniform
from gruengine.layer_base import Array, one_of, positive
from gruengine.layer_recurrent import Options, Recurrent
from gruengine.spec import Attr

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Names of gates -> letters of the operator's order.
GATE_LETTERS = {"input": "i", "output": "o", "forget": "f"}
#: The variants of the literature, as options of :class:`LSTM`. Greff et al. 2017: V is vanilla, of
#: which each other lacks one thing (NIG, NFG, NOG: a gate; NIAF, NOAF: an activation; NP:
#: peepholes), couples the input and the forget gate (CIFG) or has full gate recurrence (FGR).
LSTM_VARIANTS: dict[str, dict[str, Any]] = {
    "V": {"peepholes": True},
    "NIG": {"peepholes": True, "without": ("input",)},
    "NFG": {"peepholes": True, "without": ("forget",)},
    "NOG": {"peepholes": True, "without": ("output",)},
    "NIAF": {"peepholes": True, "input_activation": "linear"},
    "NOAF": {"peepholes": True, "output_activation": "linear"},
    "NP": {},
    "CIFG": {"peepholes": True, "coupled": True},
    "FGR": {"peepholes": True, "full_gates": True},
    "1997": {"without": ("forget",)},  # Hochreiter and Schmidhuber
    "1999": {},  # Gers et al.: with a forget gate
    "2000": {"peepholes": True},  # Gers and Schmidhuber
    "LN": {"layer_norm": True},  # Ba et al. 2016
    "zoneout": {"zoneout": (0.05, 0.5)},  # Krueger et al. 2016, the rates of their Penn Treebank
    "skip": {"skip": True},  # Campos et al. 2018
}

# A pre-activation whose sigmoid is 1 in float32 and float64, with a derivative of zero.
OPEN = 64.0


class RNN(Recurrent):
    """A simple (Elman 1990) recurrent layer: ``h' = activation(W x + R h + b)``.

    Parameters
    ----------
    units : int
    activation : {"tanh", "relu"}
        ``RNN(units, "relu", recurrent_init="identity")`` is the IRNN (Le et al. 2015).
    **options
        See :class:`Recurrent`.
    """

    cell = "rnn"

    def __init__(self, units: int, activation: str = "tanh", **options: Unpack[Options]) -> None:
        super().__init__(units, **options)
        self.activation = one_of("activation", activation, ("tanh", "relu"))

    def attributes(self) -> dict[str, Attr]:
        """See Recurrent."""
        return {"activations": [self.activation.capitalize()] * self.directions}


class LSTM(Recurrent):
    """A long short-term memory layer (Hochreiter and Schmidhuber 1997) with its variants.

    ::

        i = sigmoid(W_i x + R_i h + p_i c + b_i)    f = sigmoid(W_f x + R_f h + p_f c + b_f)
        c' = f c + i tanh(W_c x + R_c h + b_c)      o = sigmoid(W_o x + R_o h + p_o c' + b_o)
        h' = projection (o tanh(c'))

    :data:`LSTM_VARIANTS` has the variants of the literature by name: ``LSTM.named("CIFG", 64)``.

    Parameters
    ----------
    units : int
    peepholes : bool
        The gates also see the cell (Gers and Schmidhuber 2000); parameter ``P`` ``[D, 3*H]``.
    coupled : bool
        The forget gate is 1 - the input gate (Greff et al. 2017) and has no weights: G is 3.
    projection : int, optional
        K: the output is ``projection h`` (Sak et al. 2014); parameter ``[D, K, H]``.
    without : sequence of {"input", "forget", "output"}
        Gates that are always 1 and have no weights (NIG, NFG, NOG of Greff et al. 2017);
        ``without=["forget"]`` is the LSTM of 1997.
    full_gates : bool
        The gates are fed by the gates of the step before (FGR of Greff et al. 2017): with
        u = [i, o, f] before, ``[a_i, a_o, a_f] += F u``, where a are what sigmoid is given.
        Parameter ``gate_recurrence`` F ``[D, 3*H, 3*H]``.
    layer_norm : bool
        Layer normalisation (Ba et al. 2016, supplement, equations 20 to 22): with
        n(v) = (v - mean(v)) / sqrt(var(v) + epsilon) over all gates at once::

            a = gain_x n(W x) + gain_h n(R h) + b      h' = projection (o tanh(gain_c n(c') + s_c))

        Parameter ``norm`` ``[D, 10*H]``: gain_x, gain_h (4*H each), gain_c, s_c. The shifts of the
        two products would add to b and have no parameters of their own.
    norm_epsilon : float
        Its epsilon.
    input_activation, output_activation : {"tanh", "linear"}
        Of the candidate and of the cell on its way out (NIAF, NOAF of Greff et al. 2017).
    forget_bias : float or Chrono
        What the bias of the forget gate starts at (Gers et al. 1999; Jozefowicz et al. 2015);
        a :class:`gruengine.initializers.Chrono` also sets that of the input gate.
    **options
        See :class:`Recurrent`.
    """

    cell = "lstm"
    gates = 4

    def __init__(
        self,
        units: int,
        *,
        peepholes: bool = False,
        coupled: bool = False,
        projection: int | None = None,
        without: Sequence[str] = (),
        full_gates: bool = False,
        layer_norm: bool = False,
        norm_epsilon: float = 1e-5,
        input_activation: str = "tanh",
        output_activation: str = "tanh",
        forget_bias: float | Chrono = 1.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(units, **options)
        self.peepholes = bool(peepholes)
        self.coupled = bool(coupled)
        self.projection = None if projection is None else positive("projection", projection)
        if isinstance(without, str):
            raise InvalidInputError(f"without is {without!r}; it must be a sequence of gates")
        self.without = tuple(one_of("without", gate, tuple(GATE_LETTERS)) for gate in without)
        if self.without and self.clip:
            raise InvalidInputError("clip and without exclude each other: a clamped gate is not 1")
        if self.coupled and {"input", "forget"} & set(self.without):
            raise InvalidInputError("coupled needs the input gate and gives the forget gate")
        self.input_activation = one_of("input_activation", input_activation, ("tanh", "linear"))
        self.output_activation = one_of("output_activation", output_activation, ("tanh", "linear"))
        self.forget_bias = forget_bias
        self.full_gates, self.layer_norm = bool(full_gates), bool(layer_norm)
        self.norm_epsilon = float(norm_epsilon)
        if not 0 < self.norm_epsilon < float("inf"):
            raise InvalidInputError(f"norm_epsilon is {norm_epsilon!r}; it must be positive")
        linear = "linear" in (self.input_activation, self.output_activation)
        if (self.full_gates or self.layer_norm) and (
            self.without or self.coupled or self.clip or linear
        ):
            raise InvalidInputError(
                "full_gates and layer_norm need all gates, tanh and no clip: they exclude without, "
                "coupled, clip and linear activations"
            )
        absent = {GATE_LETTERS[gate] for gate in self.without} | ({"f"} if self.coupled else set())
        self.kept = [letter for letter in "iofc" if letter not in absent]
        self.gates = len(self.kept)

    @property
    def output_size(self) -> int:
        """K."""
        return self.projection or self.units

    @property
    def state_size(self) -> int:
        """C."""
        return super().state_size + (3 * self.units if self.full_gates else 0)

    @classmethod
    def named(cls, name: str, units: int, **options: Any) -> LSTM:
        """Return the variant of this name of :data:`LSTM_VARIANTS`.

        Parameters
        ----------
        name : str
        units : int
        **options
            Of the constructor; they win over those of the variant.

        Raises
        ------
        InvalidInputError
            A name that is not in the table.
        """
        one_of("name", name, tuple(LSTM_VARIANTS))
        return cls(units, **{**LSTM_VARIANTS[name], **options})

    def attributes(self) -> dict[str, Attr]:
        """See Recurrent."""
        names = {"tanh": "Tanh", "linear": "Affine"}
        g, h = names[self.input_activation], names[self.output_activation]
        epsilon: dict[str, Attr] = {"norm_epsilon": self.norm_epsilon} if self.layer_norm else {}
        return {
            "activations": ["Sigmoid", g, h] * self.directions,
            "coupled": int(self.coupled),
            **epsilon,
        }

    def _start(self, size: int, rng: np.random.Generator) -> dict[str, Array]:
        params, H = super()._start(size, rng), self.units
        self._start_biases(params["b"].reshape(-1, H), rng)
        if self.peepholes:
            limit, count = H**-0.5, self.gates - 1
            params["P"] = rng.uniform(-limit, limit, count * H).astype(np.float32)
        if self.projection is not None:
            params["projection"] = glorot_uniform(rng, self.projection, H)
        if self.full_gates:
            params["gate_recurrence"] = glorot_uniform(rng, 3 * H, 3 * H)
        if self.layer_norm:
            params["norm"] = np.repeat(np.array([1, 0], np.float32), (9 * H, H))
        return params

    def _start_biases(self, b: Array, rng: np.random.Generator) -> None:
        """Fill ``b`` ``[G, H]``, a view."""
        if isinstance(self.forget_bias, Chrono):
            drawn = self.forget_bias(rng, self.units)
            for letter, sign in (("f", 1), ("i", -1)):
                if letter in self.kept:
                    b[self.kept.index(letter)] = sign * drawn
        elif "f" in self.kept:
            b[self.kept.index("f")] = self.forget_bias

    # -- gates without weights --------------------------------------------------------------------

    def operands(self, layer: int) -> dict[str, Array]:
        """See Recurrent; a gate without weights gets zeros, or a bias that keeps it open."""
        found = super().operands(layer)
        if self.gates < 4:
            b, second = (self._spread(half, "iofc") for half in np.split(found["B"], 2, axis=1))
            for gate in self.without:
                at = "iofc".index(GATE_LETTERS[gate]) * self.units
                b[:, at : at + self.units] = OPEN
            found["B"] = np.concatenate([b, second], axis=1)
            found["W"] = self._spread(found["W"], "iofc")
            found["R"] = self._spread(found["R"], "iofc")
            if "P" in found:
                found["P"] = self._spread(found["P"], "iof")
        return found

    def add_gradients(self, layer: int, found: dict[str, Array]) -> None:
        """See Recurrent."""
        if self.gates < 4:
            found = dict(found)
            found["B"] = self._gather(found["B"][:, : 4 * self.units], "iofc")
            for key, letters in (("W", "iofc"), ("R", "iofc"), ("P", "iof")):
                if key in found:
                    found[key] = self._gather(found[key], letters)
        super().add_gradients(layer, found)

    def _rows(self, letters: str) -> Array:
        """Where the rows of the kept gates stand among those of ``letters``."""
        H = self.units
        starts = [letters.index(letter) * H for letter in self.kept if letter in letters]
        return np.concatenate([np.arange(at, at + H) for at in starts])

    def _spread(self, rows: Array, letters: str) -> Array:
        """Place the rows of the kept gates (axis 1) among zeros."""
        whole = np.zeros((rows.shape[0], len(letters) * self.units, *rows.shape[2:]), rows.dtype)
        whole[:, self._rows(letters)] = rows
        return whole

    def _gather(self, rows: Array, letters: str) -> Array:
        return np.ascontiguousarray(rows[:, self._rows(letters)])


class GRU(Recurrent):
    """A gated recurrent unit (Cho et al. 2014).

    ::

        z = sigmoid(W_z x + R_z h + b_z)    r = sigmoid(W_r x + R_r h + b_r)
        n = tanh(W_h x + b_h + r (R_h h + b_Rh))    reset "after"
        n = tanh(W_h x + b_h + R_h (r h))           reset "before"
        h' = (1 - z) n + z h                        update "keep"
        h' = (1 - z) h + z n                        update "take"

    Parameters
    ----------
    units : int
    reset : {"after", "before"}
        The reset gate multiplies after the recurrent product (cuDNN, Keras, PyTorch; that product
        then has its own bias) or before it (Cho et al.).
    update : {"keep", "take"}
        What the update gate multiplies: the old state (Cho et al.) or the candidate (Chung et al.
        2014). :meth:`turned` rewrites the parameters of one as the other's, exactly.
    memory : Chrono, optional
        Start the bias of the update gate for memories of so many steps.
    **options
        See :class:`Recurrent`.
    """

    cell = "gru"
    gates = 3

    def __init__(
        self,
        units: int,
        *,
        reset: str = "after",
        update: str = "keep",
        memory: Chrono | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(units, **options)
        self.reset = one_of("reset", reset, ("after", "before"))
        self.update = one_of("update", update, ("keep", "take"))
        self.memory = memory
        self.biases = 2 if reset == "after" else 1

    def attributes(self) -> dict[str, Attr]:
        """See Recurrent."""
        names = ["Sigmoid", "Tanh"] * self.directions
        return {"activations": names, "reset": self.reset, "update": self.update}

    def _start(self, size: int, rng: np.random.Generator) -> dict[str, Array]:
        params = super()._start(size, rng)
        if self.memory is not None:
            sign = 1 if self.update == "keep" else -1
            params["b"][: self.units] = sign * self.memory(rng, self.units)
        return params

    def turned(self) -> dict[str, Array]:
        """Return the parameters with which the other ``update`` computes the same.

        ``sigmoid(-a) = 1 - sigmoid(a)``: the rows of the update gate change their sign.
        """
        found = {}
        for key, value in self.params.items():
            turned = value.copy()
            found[key] = turned
            if key.startswith("skip"):
                continue
            blocks = turned.reshape(
                value.shape[0], self.biases if key[0] == "b" else 1, 3, self.units, -1
            )
            blocks[:, :, 0] *= -1
        return found
