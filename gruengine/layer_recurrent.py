# SPDX-License-Identifier: MIT
"""What the recurrent layers share: options, parameters, graph and training.

Letters: I input features, H units, K size of the output h (H, or the projection), G gates,
D directions. Gates stand in ONNX's order: LSTM i, o, f, c; GRU z, r, h.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from gruengine.errors import InvalidInputError
from gruengine.initializers import Initializer, glorot_uniform, start
from gruengine.layer_base import (
    Array,
    Backprop,
    Flow,
    GraphBuilder,
    Layer,
    Pass,
    States,
    positive,
)
from gruengine.spec import Attr, Node

#: What a layer may have beside W, R and biases, as parameters and as inputs of its node, in order.
EXTRAS = ("P", "projection", "gate_recurrence", "norm", "skip")


class Options(TypedDict, total=False):
    """The options that every recurrent layer takes: see :class:`Recurrent`."""

    return_sequences: bool
    bidirectional: bool
    num_layers: int
    residual: bool
    clip: float
    dropout: float
    recurrent_dropout: float
    zoneout: float | tuple[float, float]
    skip: bool
    skip_cost: float
    input_init: Initializer
    recurrent_init: Initializer
    name: str | None


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
    residual : bool
        The input of each layer is added to its output where they have as many features
        (He et al. 2016); needs ``return_sequences``.
    clip : float
        Pre-activations are clamped to [-clip, clip]; 0: not clamped.
    dropout : float
        In training, of the outputs between the layers of the stack.
    recurrent_dropout : float
        In training, of what the recurrent product sees of ``h``: for each row of the batch one
        mask for all steps (Gal and Ghahramani 2016).
    zoneout : float, or two of them for h and c of an LSTM
        In training each unit keeps its old h (and c) at a step with this probability; in inference
        that share of the old and the rest of the new value are added (Krueger et al. 2016)::

            h' = m_h h + (1 - m_h) h~        c' = m_c c + (1 - m_c) c~

        with h~, c~ what the cell gives, m random bits in training and the probabilities else.
    skip : bool
        The layer learns which steps to skip (Campos et al. 2018: Skip RNN, Skip LSTM, Skip GRU);
        inference leaves out the work of a skipped step::

            u   = 1 if p~ >= 1/2 else 0              s'  = u S(s, x) + (1 - u) s
            p   = sigmoid(w h' + b)                  p~' = u p + (1 - u) (p~ + min(p, 1 - p~))

        s is h (and c); p~ starts at 1. Backward, du/dp~ is taken for 1 (straight through).
        Parameter ``skip`` ``[D, K + 1]``: w, then b, which starts at 1. Not with ``zoneout``.
    skip_cost : float
        In training the gradient is that of the loss plus this for each update of each row, over
        the number of rows; the loss that is reported does not hold it.
    input_init, recurrent_init : str or function
        How W and R start: a name of :data:`gruengine.initializers.INITIALIZERS`, or a function of
        a generator, rows and columns.

    Notes
    -----
    Parameters of layer l (suffix ``_l1``, ``_l2``, ... from the second on): ``W`` ``[D, G*H, I]``,
    ``R`` ``[D, G*H, K]``, ``b`` ``[D, G*H]`` (``[D, 2*G*H]`` where the recurrent product has its
    own bias), and, where they are asked for, those of ``EXTRAS``.
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
        residual: bool = False,
        clip: float = 0.0,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        skip: bool = False,
        skip_cost: float = 0.0,
        input_init: Initializer = "glorot",
        recurrent_init: Initializer = "orthogonal",
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
        for key, rate in (("dropout", dropout), ("recurrent_dropout", recurrent_dropout)):
            if not 0 <= rate < 1:
                raise InvalidInputError(f"{key} is {rate!r}; it must be at least 0 and below 1")
        self.dropout, self.recurrent_dropout = float(dropout), float(recurrent_dropout)
        self.zoneout = self._shares(zoneout)
        self.skip, self.skip_cost = bool(skip), float(skip_cost)
        if not 0 <= skip_cost < float("inf") or (skip_cost and not skip):
            raise InvalidInputError(f"skip_cost is {skip_cost!r}; it must be 0, or more with skip")
        if self.skip and any(self.zoneout):
            raise InvalidInputError("skip and zoneout exclude each other")
        self.residual = bool(residual)
        if self.residual and not self.return_sequences:
            raise InvalidInputError("residual=True needs return_sequences=True")
        self.input_init, self.recurrent_init = input_init, recurrent_init

    @property
    def directions(self) -> int:
        """D."""
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """K."""
        return self.units

    @property
    def state_size(self) -> int:
        """C, the size of the state c; 0 where there is none."""
        return (self.units if self.cell == "lstm" else 0) + self.skip

    def _shares(self, zoneout: float | tuple[float, float]) -> tuple[float, float]:
        """Return the probabilities with which h and c are kept."""
        lstm = self.cell == "lstm"
        pair = zoneout if isinstance(zoneout, tuple) else (zoneout, zoneout if lstm else 0.0)
        if len(pair) != 2 or not all(0 <= p < 1 for p in pair) or (pair[1] and not lstm):
            raise InvalidInputError(
                f"zoneout is {zoneout!r}; it must be at least 0 and below 1, or two such numbers "
                "for h and c of an LSTM"
            )
        return float(pair[0]), float(pair[1])

    # -- parameters -------------------------------------------------------------------------------

    def build(self, features: int | None, rng: np.random.Generator) -> None:
        """Start the parameters: Glorot for W, orthogonal for R, zero biases by default."""
        size = self._needs_features(features)
        if self.residual and self.num_layers == 1 and size != self.directions * self.output_size:
            raise InvalidInputError(
                f"layer {self.name!r} has residual=True, {size} features before it and "
                f"{self.directions * self.output_size} after; they must be equal"
            )
        self.params = {}
        for layer in range(self.num_layers):
            per_direction = [self._start(size, rng) for _ in range(self.directions)]
            for key in per_direction[0]:
                self.params[key + suffix_of(layer)] = np.stack([p[key] for p in per_direction])
            size = self.directions * self.output_size

    def _start(self, size: int, rng: np.random.Generator) -> dict[str, Array]:
        rows = self.gates * self.units
        params = {
            "W": start(self.input_init, "input_init", rng, rows, size),
            "R": start(self.recurrent_init, "recurrent_init", rng, rows, self.output_size),
            "b": np.zeros(self.biases * rows, np.float32),
        }
        if self.skip:
            params["skip"] = np.append(glorot_uniform(rng, 1, self.output_size), np.float32(1))
        return params

    # -- graph ------------------------------------------------------------------------------------

    def attributes(self) -> dict[str, Attr]:
        """Return the attributes of the cell beside those that every cell has."""
        raise NotImplementedError

    def operands(self, layer: int) -> dict[str, Array]:
        """Return W, R, B and what else the cell has, in the layout of the Recurrent operator."""
        suffix = suffix_of(layer)
        b = self.params["b" + suffix]
        if self.biases == 1:
            b = np.concatenate([b, np.zeros_like(b)], axis=1)
        found = {"W": self.params["W" + suffix], "R": self.params["R" + suffix], "B": b}
        return found | {
            key: self.params[key + suffix] for key in EXTRAS if key + suffix in self.params
        }

    def node_attributes(self) -> dict[str, Attr]:
        """Return every attribute of the Recurrent node."""
        own = self.attributes()
        names = own["activations"]
        assert isinstance(names, list)
        zoneout: dict[str, Attr] = {"zoneout": [*self.zoneout]} if any(self.zoneout) else {}
        return {
            "cell": self.cell,
            "hidden_size": self.units,
            "direction": "bidirectional" if self.bidirectional else "forward",
            "clip": self.clip,
            **own,
            **zoneout,
            # Affine is the identity here; the others take no numbers.
            "activation_alpha": [1.0 if name == "Affine" else 0.0 for name in names],
            "activation_beta": [0.0] * len(names),
        }

    # -- training ---------------------------------------------------------------------------------

    def add_gradients(self, layer: int, found: dict[str, Array]) -> None:
        """Add the gradients of ``operands(layer)`` to those of the parameters."""
        suffix = suffix_of(layer)
        rows = self.gates * self.units * self.biases
        self.accumulate("W" + suffix, found["W"])
        self.accumulate("R" + suffix, found["R"])
        self.accumulate("b" + suffix, found["B"][:, :rows])
        for key in EXTRAS:
            if key + suffix in self.params:
                self.accumulate(key + suffix, found[key])

    def begin_update(
        self, x: Array, state: States | None = None, run: Pass | None = None
    ) -> tuple[Array, States, Backprop]:
        """See Layer; ``state`` has one :class:`State` for each layer of the stack."""
        from gruengine.recurrent_training import begin_update

        return begin_update(self, x, state, run or Pass())

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
        base = self.name + suffix_of(layer)
        constants = {k: graph.constant(f"{base}.{k}", v) for k, v in self.operands(layer).items()}
        optional = ["", "", "", *(constants.get(key, "") for key in EXTRAS)]
        inputs = [flow.name, constants["W"], constants["R"], constants["B"], *optional]
        while inputs[-1] == "":
            inputs.pop()
        output = f"{base}.Y" if sequences else f"{base}.Y_h"
        outputs = (output,) if sequences else ("", output)
        node = Node("Recurrent", tuple(inputs), outputs, self.node_attributes(), base)
        graph.nodes.append(node)
        name = self._join_directions(graph, output, base, sequences)
        if self.residual and flow.features == self.directions * self.output_size:
            name = graph.add("Add", f"{base}.residual", [name, flow.name], {})
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


def suffix_of(layer: int) -> str:
    """Return what the names of a layer's parameters end in."""
    return "" if layer == 0 else f"_l{layer}"
