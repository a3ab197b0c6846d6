# SPDX-License-Identifier: MIT
"""An encoder whose last state is the first state of a decoder (Sutskever et al. 2014)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np

from gruengine.errors import InvalidInputError
from gruengine.layer_base import Array, Backprop, Pass, States
from gruengine.layer_recurrent import Recurrent
from gruengine.layers import Sequential
from gruengine.recurrent_checks import state_size
from gruengine.spec import Graph, ModelSpec, Node, Port

PARTS = ("encoder", "decoder")


class EncoderDecoder:
    """Two models joined by their states; trained by :class:`gruengine.Trainer`.

    ``x`` is a pair: what the encoder reads and what the decoder reads (in training the wanted
    output, one step late). ``lengths`` are those of the encoder's rows; a ``mask`` says which
    outputs of the decoder count.

    Parameters
    ----------
    encoder, decoder : Sequential
        Built, with the same recurrent layers (cells, units, directions) in the same order, and the
        same ``batch_first``. Names of layers get ``encoder_`` and ``decoder_`` in front.

    Raises
    ------
    InvalidInputError
        States that don't fit.
    """

    def __init__(self, encoder: Sequential, decoder: Sequential) -> None:
        self.encoder, self.decoder = encoder, decoder
        self.batch_first = decoder.batch_first
        kinds = [_states_of(net) for net in (encoder, decoder)]
        if kinds[0] != kinds[1] or encoder.batch_first != decoder.batch_first:
            raise InvalidInputError(
                f"states of the encoder are {kinds[0]}, of the decoder {kinds[1]} "
                "(cell, H, K, C, D); they must be equal, as must batch_first"
            )
        for part, net in zip(PARTS, (encoder, decoder), strict=True):
            for layer in net.layers:
                if not layer.name.startswith(part):
                    layer.name = f"{part}_{layer.name}"
        self.layers = (*encoder.layers, *decoder.layers)

    def parameters(self) -> dict[str, Array]:
        """Return every parameter by ``layer.key``: read-only, not copies."""
        return self.encoder.parameters() | self.decoder.parameters()

    def set_parameters(self, values: Mapping[str, Any]) -> None:
        """Replace parameters, all or some, named as in ``parameters()``."""
        unknown = sorted(set(values) - set(self.parameters()))
        if unknown:
            raise InvalidInputError(f"no parameter {unknown[0]!r}")
        for net in (self.encoder, self.decoder):
            own = net.parameters()
            net.set_parameters({name: v for name, v in values.items() if name in own})

    def changed(self) -> None:
        """Forget compiled models: parameters were written in place."""
        self.encoder.changed()
        self.decoder.changed()

    def begin_update(
        self, x: tuple[Any, Any], state: States | None = None, run: Pass | None = None
    ) -> tuple[Array, States, Backprop]:
        """Run both so that they can be trained; ``dx`` of backprop is a pair."""
        run = run or Pass()
        source, given = x
        _, between, undo_encoder = self.encoder.begin_update(
            source, state, replace(run, logits=False)
        )
        y, after, undo_decoder = self.decoder.begin_update(given, between, _whole(run))

        def backprop(dy: Array | None, dstate: States | None = None) -> tuple[Any, States]:
            dgiven, dbetween = undo_decoder(dy, dstate)
            dsource, dstart = undo_encoder(None, dbetween)
            return (dsource, dgiven), dstart

        return y, after, backprop

    def layer_outputs(
        self, x: tuple[Any, Any], state: States | None = None, run: Pass | None = None
    ) -> Iterator[tuple[str, Array]]:
        """Yield the name and the training output of one layer after the other."""
        run = run or Pass()
        yield from self.encoder.layer_outputs(x[0], state, run)
        _, between, _ = self.encoder.begin_update(x[0], state, replace(run, logits=False))
        yield from self.decoder.layer_outputs(x[1], between, _whole(run))

    def generate(self, source: Any, start: int, steps: int, lengths: Any = None) -> Array:
        """Return ``[N, steps]`` integers: the likeliest class, fed back into the decoder.

        Parameters
        ----------
        source : what the encoder reads.
        start : what the decoder, which begins with an Embedding, reads first.

        Raises
        ------
        InvalidInputError
            A decoder that also reads backwards: it cannot write before it has read all.
        """
        both = [lay.name for lay in self.decoder.layers if getattr(lay, "bidirectional", False)]
        if both:
            raise InvalidInputError(f"layer {both[0]!r} reads backwards too; it cannot generate")
        run = Pass(None if lengths is None else np.asarray(lengths), training=False)
        _, state, _ = self.encoder.begin_update(source, None, run)
        rows = np.shape(source)[0 if self.batch_first else 1]
        found, now = [], np.full(rows, start)
        for _ in range(steps):
            given = now[:, None] if self.batch_first else now[None]
            y, state, _ = self.decoder.begin_update(given, state, _whole(run))
            now = y.reshape(rows, -1).argmax(-1)
            found.append(now)
        return np.stack(found, 1)

    def save(self, path: str | PathLike[str]) -> None:
        """Write both as one model file, with a parity sample (replaced as a whole)."""
        from gruengine.conversion import save_spec

        save_spec(self.spec(), path)

    def spec(self) -> ModelSpec:
        """Return both as one graph: inputs ``source`` and ``target``, output ``y``."""
        nodes: list[Node] = []
        tensors: dict[str, Array] = {}
        states: list[tuple[str, str]] = []
        ports = []
        for part, net, name in zip(PARTS, (self.encoder, self.decoder), ("source", "target"),
                                   strict=True):  # fmt: skip
            spec = net.spec()
            kept = {"x": name, "y": "y"} if part == "decoder" else {"x": name}

            def named(value: str, kept: dict[str, str] = kept, part: str = part) -> str:
                return kept.get(value, f"{part}/{value}") if value else ""

            tensors |= {named(key): value for key, value in spec.tensors.items()}
            port = spec.graph.inputs[0]
            sizes = tuple("T_" + name if d == "T" else d for d in port.shape)
            ports.append(Port(name, port.dtype, sizes))
            for node in spec.graph.nodes:
                inputs, outputs = [named(i) for i in node.inputs], [named(o) for o in node.outputs]
                if node.op == "Recurrent" and part == "encoder":
                    outputs += [""] * (3 - len(outputs))
                    outputs[1] = outputs[1] or f"{named(node.name)}.last_h"
                    outputs[2] = f"{named(node.name)}.last_c" if state_size(node) else ""
                    states.append((outputs[1], outputs[2]))
                elif node.op == "Recurrent":
                    inputs += [""] * (7 - len(inputs))
                    inputs[5], inputs[6] = states.pop(0)
                nodes.append(Node(node.op, tuple(inputs), tuple(outputs), node.attrs,
                                  named(node.name)))  # fmt: skip
        output = self.decoder.spec().graph.outputs[0]
        sizes = tuple("T_target" if d == "T" else d for d in output.shape)
        graph = Graph(ports, [Port("y", "float32", sizes)], nodes)
        return ModelSpec(graph, tensors, provenance={"format": "gruengine.EncoderDecoder"})


def _whole(run: Pass) -> Pass:
    """Return the pass of the decoder: lengths are those of the encoder's rows."""
    return replace(run, lengths=None)


def _states_of(net: Sequential) -> list[tuple[str, int, int, int, int]]:
    return [
        (layer.cell, layer.units, layer.output_size, layer.state_size, layer.directions)
        for layer in net.layers
        if isinstance(layer, Recurrent)
        for _ in range(layer.num_layers)
    ]
