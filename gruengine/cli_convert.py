# SPDX-License-Identifier: MIT
"""``gruengine convert``: a bar while it works, then a report that a person can read."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from typing import Any

from gruengine.cli_text import Bar, fields, print_json, size
from gruengine.converters import FORMATS
from gruengine.converters.base import ConversionReport

_MOST_LINES = 12  # of one kind; the others are counted


def convert_file(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Convert or export as the arguments say, print the report and return the exit code."""
    from gruengine.conversion import convert
    from gruengine.export import export_file, format_of

    # Another program's format is known by its ending; .safetensors is a model file here.
    kind = format_of(args.destination)
    if kind not in (None, "torch") or args.destination.endswith(".torch.safetensors"):
        with Bar(os.path.basename(args.source)) as bar:
            bar("converting", 0.0)
            export_file(args.source, args.destination, **options)
        if args.json:
            print_json({"source": args.source, "destination": args.destination, "format": kind})
        else:
            before, after = map(os.path.getsize, (args.source, args.destination))
            print(f"{args.source} -> {args.destination}")
            print(fields([("written", f"{kind}, {size(before)} -> {size(after)}")]))
        return 0
    with Bar(os.path.basename(args.source)) as bar:
        report = convert(
            args.source, args.destination, compute_type=args.compute_type, progress=bar, **options
        )
    if args.json:
        print_json(asdict(report))
        return 0
    print(f"{args.source} -> {args.destination}")
    print(in_words(report))
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def in_words(report: ConversionReport) -> str:
    """Return what happened, a line or more for each kind of fact."""
    error = report.parity_error
    pairs = [f"{before} -> {after}" for before, after in report.state]
    state = [] if report.streaming.startswith("call") else pairs  # there it names them
    nodes = f"{report.nodes_before} -> {report.nodes_after}"
    rows = [
        ("source", f"{FORMATS.get(report.source_format, report.source_format)}"),
        ("size", f"{size(report.source_bytes)} -> {size(report.output_bytes)}"),
        ("parameters", f"{report.parameters:,}"),
        ("nodes", nodes + (f", {report.folded} computed now" if report.folded else "")),
        *_lines("recognised", report.recognised),
        *_lines("fused", report.fused),
        *_lines("ONNX Runtime", report.fallback),
        *_lines("state", state),
        ("streaming", report.streaming),
        ("parity", "" if error is None else f"largest error {error:.2g} on the recorded sample"),
    ]
    return fields(rows)


def _lines(label: str, texts: list[str]) -> list[tuple[str, str]]:
    shown = texts[:_MOST_LINES]
    if len(texts) > len(shown):
        shown.append(f"and {len(texts) - len(shown)} more (--json lists all)")
    return [(label if i == 0 else " ", text) for i, text in enumerate(shown)]
