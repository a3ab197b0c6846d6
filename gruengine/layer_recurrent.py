# SPDX-License-Identifier: MIT
"""The recurrent layers: RNN, LSTM and GRU with their variants.

Letters: I input features, H units, K size of the output h (H, or the projection), G gates,
D directions. Gates stand in ONNX's order: LSTM i, o, f, c; GRU z, r, h.
"""

from __future__ import annotations

import numpy as np

from gruengine.errors import InvalidInputError
from gruengine.layer_base import (
    Array,
    Flow,
    GraphBuilder,
    Layer,
    glorot_uniform,
    one_of,
    orthogonal,
    positive,
)
from gruengine.spec import Attr, Node


class Recurrent(Layer):
    """What the recurrent layers share.

    Parameters
    ----------
    units : int
        H.
    return_sequences : bool
        True: the output of every step, ``[N, T, D*K]``; False: the last output, ``[N, D*K]``
        (of a bidirectional layer, the last of each direction).
    bidirectional : bool
        A second set of weights reads the sequence backwards; outputs stand side by side.
    num_layers : int
        Layers of the same size on top of each other.
    clip : float
        Pre-activations are clamped to [-clip, clip]; 0: not clamped.

    Notes
    -----
    Parameters of layer l (suffix ``_l1``, ``_l2``, ... from the second on): ``W`` ``[D, G*H, I]``,
    ``R`` ``[D, G*H, K]``, ``b`` ``[D, G*H]`` (``[D, 2*G*H]`` where the recurrent product has its
    own bias), and, where they are asked for, ``P`` and ``projection``.
    """

    cell = ""
    gates = 1
    biases = 1  # 2: the recurrent product has a bias of its own

    def __init__(
        self,
        units: int,
        *,
        return_sequences: bool = False,
        bidirectional: bool = False,
        num_layers: int = 1,
        clip: float = 0.0,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.units = positive("units", units)
        self.num_layers = positive("num_layers", num_layers)
        self.return_sequences = bool(return_sequences)
        self.bidirectional = bool(bidirectional)
        if not 0 <= clip < float("inf"):
            raise InvalidInputError(f"clip is {clip!r}; it must be 0 (none) or a positive number")
        self.clip = float(clip)

    @property
    def directions(self) -> int:
        """D."""
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """K."""
        return self.units

    # -- parameters -------------------------------------------------------------------------------

    def build(self, features: int | None, rng: np.random.Generator) -> None:
        """Start the parameters: Glorot for W, orthogonal for R, zero biases."""
        size = self._needs_features(features)
        self.params = {}
        for layer in range(self.num_layers):
            per_direction = [self._start(size, rng) for _ in range(self.directions)]
            for key in per_direction[0]:
                self.params[key + _suffix(layer)] = np.stack([p[key] for p in per_direction])
            size = self.directions * self.output_size

    def _start(self, size: int, rng: np.random.Generator) -> dict[str, Array]:
        rows = self.gates * self.units
        return {
            "W": glorot_uniform(rng, rows, size),
            "R": orthogonal(rng, rows, self.output_size),
            "b": np.zeros(self.biases * rows, np.float32),
        }

    # -- graph ------------------------------------------------------------------------------------

    def attributes(self) -> dict[str, Attr]:
        """Return the attributes of the cell beside those that every cell has."""
        raise NotImplementedError

    def operands(self, layer: int) -> dict[str, Array]:
        """Return W, R, B and what else the cell has, in the layout of the Recurrent operator."""
        suffix = _suffix(layer)
        b = self.params["b" + suffix]
        if self.biases == 1:
            b = np.concatenate([b, np.zeros_like(b)], axis=1)
        return {"W": self.params["W" + suffix], "R": self.params["R" + suffix], "B": b}

    def emit(self, graph: GraphBuilder, flow: Flow) -> Flow:
        """Add one Recurrent node a layer, and what brings its output to [T, N, D*K] or [N, D*K]."""
        if not flow.time:
            raise InvalidInputError(
                f"layer {self.name!r} needs a sequence; the recurrent layer before it gives its "
                "last output alone: set return_sequences=True there"
            )
        for layer in range(self.num_layers):
            inner = layer < self.num_layers - 1
            sequences = self.return_sequences or inner or graph.every_step
            flow = self._emit_layer(graph, flow, layer, sequences)
        return flow

    def _emit_layer(self, graph: GraphBuilder, flow: Flow, layer: int, sequences: bool) -> Flow:
        base = self.name + _suffix(layer)
        constants = {k: graph.constant(f"{base}.{k}", v) for k, v in self.operands(layer).items()}
        optional = ["", "", "", constants.get("P", ""), constants.get("projection", "")]
        inputs = [flow.name, constants["W"], constants["R"], constants["B"], *optional]
        while inputs[-1] == "":
            inputs.pop()
        output = f"{base}.Y" if sequences else f"{base}.Y_h"
        outputs = (output,) if sequences else ("", output)
        attrs: dict[str, Attr] = {
            "cell": self.cell,
            "hidden_size": self.units,
            "direction": "bidirectional" if self.bidirectional else "forward",
            "clip": self.clip,
            **self.attributes(),
        }
        count = len(attrs["activations"])  # type: ignore[arg-type]
        attrs["activation_alpha"] = [0.0] * count
        attrs["activation_beta"] = [0.0] * count
        graph.nodes.append(Node("Recurrent", tuple(inputs), outputs, attrs, base))
        name = self._join_directions(graph, output, base, sequences)
        return Flow(name, self.directions * self.output_size, sequences)

    def _join_directions(self, graph: GraphBuilder, value: str, base: str, sequences: bool) -> str:
        """``[T, D, N, K]`` to ``[T, N, D*K]``, or ``[D, N, K]`` to ``[N, D*K]``."""
        if not self.bidirectional:
            axes = graph.ints(f"{base}.axes", [1 if sequences else 0])
            return graph.add("Squeeze", f"{base}.out", [value, axes], {})
        perm = [0, 2, 1, 3] if sequences else [1, 0, 2]
        turned = graph.add("Transpose", f"{base}.turned", [value], {"perm": perm})
        size = 2 * self.output_size
        shape = graph.ints(f"{base}.shape", [0, 0, size] if sequences else [0, size])
        return graph.add("Reshape", f"{base}.out", [turned, shape], {"allowzero": 0})


class RNN(Recurrent):
    """A simple (Elman) recurrent layer: ``h' = activation(W x + R h + b)``.

    Parameters
    ----------
    units : int
    activation : {"tanh", "relu"}
    **options
        ``return_sequences``, ``bidirectional``, ``num_layers``, ``clip``, ``name``:
        see :class:`Recurrent`.
    """

    cell = "rnn"

    def __init__(
        self,
        units: int,
        activation: str = "tanh",
        *,
        return_sequences: bool = False,
        bidirectional: bool = False,
        num_layers: int = 1,
        clip: float = 0.0,
        name: str | None = None,
    ) -> None:
        super().__init__(
            units,
            return_sequences=return_sequences,
            bidirectional=bidirectional,
            num_layers=num_layers,
            clip=clip,
            name=name,
        )
        self.activation = one_of("activation", activation, ("tanh", "relu"))

    def attributes(self) -> dict[str, Attr]:
        """See Recurrent."""
        return {"activations": [self.activation.capitalize()] * self.directions}


class LSTM(Recurrent):
    """A long short-term memory layer (Hochreiter and Schmidhuber 1997) with its variants.

    Parameters
    ----------
    units : int
    peepholes : bool
        The gates also see the cell (Gers and Schmidhuber 2000); parameter ``P`` ``[D, 3*H]``.
    coupled : bool
        The forget gate is 1 - the input gate (Greff et al. 2017) and has no weights: G is 3.
    projection : int, optional
        K: the output is ``projection h`` (Sak et al. 2014); parameter ``[D, K, H]``.
    **options
        ``return_sequences``, ``bidirectional``, ``num_layers``, ``clip``, ``name``:
        see :class:`Recurrent`.
    """

    cell = "lstm"
    gates = 4

    def __init__(
        self,
        units: int,
        *,
        return_sequences: bool = False,
        bidirectional: bool = False,
        num_layers: int = 1,
        peepholes: bool = False,
        coupled: bool = False,
        projection: int | None = None,
        clip: float = 0.0,
        name: str | None = None,
    ) -> None:
        super().__init__(
            units,
            return_sequences=return_sequences,
            bidirectional=bidirectional,
            num_layers=num_layers,
            clip=clip,
            name=name,
        )
        self.peepholes = bool(peepholes)
        self.coupled = bool(coupled)
        self.projection = None if projection is None else positive("projection", projection)
        self.gates = 3 if coupled else 4

    @property
    def output_size(self) -> int:
        """K."""
        return self.projection or self.units

    def attributes(self) -> dict[str, Attr]:
        """See Recurrent."""
        names = ["Sigmoid", "Tanh", "Tanh"] * self.directions
        return {"activations": names, "coupled": int(self.coupled)}

    def _start(self, size: int, rng: np.random.Generator) -> dict[str, Array]:
        params = super()._start(size, rng)
        H = self.units
        if not self.coupled:
            # A gate that forgets little at first lets gradients through (Jozefowicz et al. 2015).
            params["b"][2 * H : 3 * H] = 1.0
        if self.peepholes:
            count = 2 if self.coupled else 3
            limit = H**-0.5
            params["P"] = rng.uniform(-limit, limit, count * H).astype(np.float32)
        if self.projection is not None:
            params["projection"] = glorot_uniform(rng, self.projection, H)
        return params

    def operands(self, layer: int) -> dict[str, Array]:
        """See Recurrent; a coupled layer gets zeros where the forget gate would be."""
        found = super().operands(layer)
        suffix = _suffix(layer)
        for key in ("P", "projection"):
            if key + suffix in self.params:
                found[key] = self.params[key + suffix]
        if self.coupled:
            halves = [self._with_forget(half) for half in np.split(found["B"], 2, axis=1)]
            found["B"] = np.concatenate(halves, axis=1)
            found["W"], found["R"] = self._with_forget(found["W"]), self._with_forget(found["R"])
            if "P" in found:
                found["P"] = self._with_forget(found["P"])
        return found

    def _with_forget(self, rows: Array) -> Array:
        """Insert H zero rows after the gates i and o along axis 1."""
        at, H = 2 * self.units, self.units
        zeros = np.zeros((rows.shape[0], H, *rows.shape[2:]), np.float32)
        return np.concatenate([rows[:, :at], zeros, rows[:, at:]], axis=1)


class GRU(Recurrent):
    """A gated recurrent unit (Cho et al. 2014), ``h' = (1 - z) n + z h``.

    Parameters
    ----------
    units : int
    reset : {"after", "before"}
        The reset gate multiplies after the recurrent product (cuDNN, Keras, PyTorch; that product
        then has its own bias) or before it (Cho et al.).
    **options
        ``return_sequences``, ``bidirectional``, ``num_layers``, ``clip``, ``name``:
        see :class:`Recurrent`.
    """

    cell = "gru"
    gates = 3

    def __init__(
        self,
        units: int,
        *,
        reset: str = "after",
        return_sequences: bool = False,
        bidirectional: bool = False,
        num_layers: int = 1,
        clip: float = 0.0,
        name: str | None = None,
    ) -> None:
        super().__init__(
            units,
            return_sequences=return_sequences,
            bidirectional=bidirectional,
            num_layers=num_layers,
            clip=clip,
            name=name,
        )
        self.reset = one_of("reset", reset, ("after", "before"))
        self.biases = 2 if reset == "after" else 1

    def attributes(self) -> dict[str, Attr]:
        """See Recurrent."""
        names = ["Sigmoid", "Tanh"] * self.directions
        return {"activations": names, "reset": self.reset, "update": "keep"}


def _suffix(layer: int) -> str:
    return "" if layer == 0 else f"_l{layer}"
