"""``phases``: the transition tables, as a table or as a drawing."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TextIO

from libvirt_postcopy.events import Side
from libvirt_postcopy.phases import TRANSITIONS, Phase, Status, place

__all__ = ["options", "run", "to_dot", "to_table"]


def options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "--dot", action="store_true", help="as a drawing for Graphviz' dot"
    )


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Print the tables."""
    out.write(to_dot() if args.dot else to_table())
    return 0


def to_table() -> str:
    """Write one row for each move, and where the guest is in each of the source's phases."""
    rows = [
        (side.value, phase.value, ", ".join(statuses), after.value)
        for side in Side
        for phase, after, statuses in _moves(side)
    ]
    places = [(phase.value, place(phase, Phase.PREPARING).value) for phase in Phase]
    return "\n".join(
        [
            *_aligned([("SIDE", "PHASE", "STATUS OF ITS QEMU", "NEXT PHASE"), *rows]),
            "",
            *_aligned([("PHASE OF THE SOURCE", "THE GUEST IS"), *places]),
            "",
        ]
    )


def _moves(side: Side) -> Iterator[tuple[Phase, Phase, list[str]]]:
    """Each pair of phases, with the statuses that lead from one to the other, in the tables' order."""
    for phase, row in TRANSITIONS[side].items():
        for after in dict.fromkeys(row.values()):
            yield phase, after, [
                status.value for status in Status if row.get(status) is after
            ]


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
        for row in rows
    ]


def to_dot() -> str:
    """Write a drawing of both sides; a phase in which the guest is split has a double border."""
    lines = [
        "// Made by: libvirt-postcopy phases --dot",
        "digraph phases {",
        "  rankdir=LR;",
        "  node [shape=box, style=rounded];",
    ]
    for side in Side:
        lines += [
            f"  subgraph cluster_{side.value} {{",
            f'    label="{side.value}";',
            *(_node(side, phase) for phase in TRANSITIONS[side]),
            *_edges(side),
            "  }",
        ]
    return "\n".join([*lines, "}", ""])


def _name(side: Side, phase: Phase) -> str:
    return f'"{side.value} {phase.value}"'


def _node(side: Side, phase: Phase) -> str:
    look = f'label="{phase.value}"'
    if phase.is_split:
        look += ", peripheries=2"
    if phase.is_final:
        look += ', style="rounded,bold"'
    return f"    {_name(side, phase)} [{look}];"


def _edges(side: Side) -> Iterator[str]:
    for phase, after, statuses in _moves(side):
        if phase is not after:  # a status that is seen again draws no arrow
            label = "\\n".join(statuses)
            yield f'    {_name(side, phase)} -> {_name(side, after)} [label="{label}"];'
