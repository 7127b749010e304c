"""What becomes of the guest when something breaks, ours beside virsh's.

Each cell of the matrix (``tests/faults``) is one migration with one fault at one moment; the tools take turns.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from faults import (
    CELLS,
    FORGOTTEN,
    NO_CELL,
    TOOLS,
    Cell,
    Outcome,
    cells,
    complaints,
    run_cell,
)
from faults.faults import NOTICE_S
from labkit import Lab
from libvirt_postcopy.vir.events import ensure_event_loop
from scenes.bench_switch import versions

__all__ = [
    "TITLE",
    "add_arguments",
    "is_good",
    "measure",
    "no_cells",
    "report",
    "table",
]

TITLE = "Faults: what becomes of the guest"

Row = Mapping[str, Any]
Figures = Mapping[str, Any]

OURS = "virsh-postcopy"
LONGEST_BACK_S = 2.0
"""Median from the end of a fault to the guest's next sign of life, where both QEMUs were paused."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this bench alone."""
    parser.add_argument(
        "--only",
        action="append",
        metavar="TEXT",
        help="the cell of this name, or those with this in theirs; may be repeated",
    )
    parser.add_argument(
        "--tool", choices=sorted(TOOLS), action="append", help="default: both"
    )
    parser.add_argument(
        "--read",
        type=Path,
        action="append",
        metavar="FILE",
        help="measure nothing: put together what was kept with --json or --keep; may be repeated",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="keep each cell's figures there as soon as they are known",
    )


def merge(several: Iterable[Figures]) -> list[dict[str, Any]]:
    """Put figures of several runs together, one set for each pair of versions."""
    sets: dict[str, dict[str, Any]] = {}
    for figures in several:
        made = sets.setdefault(
            json.dumps(figures["versions"]),
            {"versions": figures["versions"], "cells": []},
        )
        for row in figures["cells"]:
            cell = _cell(row)
            known = next((each for each in made["cells"] if _cell(each) == cell), None)
            if known is None:
                made["cells"].append({**row, "outcomes": dict(row["outcomes"])})
                continue
            for name, some in row["outcomes"].items():
                known["outcomes"][name] = [*known["outcomes"].get(name, ()), *some]
    for made in sets.values():
        made["cells"].sort(key=lambda row: CELLS.index(_cell(row)))
    return list(sets.values())


def _cell(row: Row) -> Cell:
    key = (row["moment"], row["fault"], row["is_p2p"])
    return _BY_KEY[key]


_BY_KEY = {(cell.moment.value, cell.fault.name, cell.is_p2p): cell for cell in CELLS}


def measure(lab: Lab, args: argparse.Namespace) -> dict[str, Any]:
    """Run each cell ``args.runs`` times with each tool."""
    ensure_event_loop()
    tools = [TOOLS[name] for name in args.tool or TOOLS]
    found = versions(lab)
    rows = []
    for cell in _chosen(args.only or [""]):
        outcomes: dict[str, list[Outcome]] = {tool.name: [] for tool in tools}
        for _ in range(args.runs):
            for tool in (each for each in tools if each.comes_to(cell)):
                outcome = run_cell(lab, tool, cell)
                outcomes[tool.name].append(outcome)
                words = [_verdict(outcome), *complaints(cell, outcome, found)]
                print(f"{tool.name}: {cell}: {'; '.join(words)}", file=sys.stderr)
        rows.append(_row(cell, outcomes))
        if args.keep:
            _keep(args.keep, {"versions": found, "cells": rows[-1:]})
    return {"versions": found, "cells": rows}


def _keep(folder: Path, figures: Figures) -> None:
    """In a file of its own, so that runs side by side, or one after another, lose nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{time.time_ns()}-{os.getpid()}.json"
    file.write_text(json.dumps(figures, indent=2), encoding="utf-8")


def _chosen(texts: Sequence[str]) -> list[Cell]:
    wanted = {cell for text in texts for cell in cells(text)}
    return [cell for cell in CELLS if cell in wanted]


def _row(cell: Cell, outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, Any]:
    return {
        "moment": cell.moment.value,
        "fault": cell.fault.name,
        "is_p2p": cell.is_p2p,
        "outcomes": {
            name: [asdict(each) for each in some] for name, some in outcomes.items()
        },
    }


def _outcomes(row: Row, tool: str) -> list[Outcome]:
    return [Outcome(**each) for each in row["outcomes"].get(tool, ())]


def is_good(figures: Figures) -> bool:
    """Ours: whoever can survive does, and soon; the exit status is never wrong, and nothing is left behind."""
    return all(
        _is_prompt(row, figures["versions"])
        and not any(
            complaints(_cell(row), each, figures["versions"])
            for each in _outcomes(row, OURS)
        )
        for row in figures["cells"]
    )


def _is_prompt(row: Row, versions: Mapping[str, str]) -> bool:
    """Whether ours is back in time where both QEMUs were paused; a time that is missing counts against it."""
    cell = _cell(row)
    if not cell.needs_both or not cell.can_survive(versions):
        return True
    times = [
        math.inf if each.back_s is None else each.back_s
        for each in _outcomes(row, OURS)
    ]
    return not times or statistics.median(times) < LONGEST_BACK_S


def report(several: Sequence[Figures]) -> str:
    """All that is known, as Markdown."""
    return "\n\n".join([_LEGEND, *map(table, several), no_cells()])


def table(figures: Figures) -> str:
    """One row a cell, as Markdown."""
    tools = [
        name for name in TOOLS if any(_outcomes(row, name) for row in figures["cells"])
    ]
    text = ", ".join(
        f"{name} {number}"
        for name, number in figures["versions"].items()
        if name != "Python"
    )
    titles = [title for name in tools for title in (name, "runs again after, s")]
    lines = [
        f"## {text}",
        "",
        "| moment | fault | " + " | ".join(titles) + " |",
        "|---|---|" + "---|" * len(titles),
    ]
    for row in figures["cells"]:
        found = [
            text for name in tools for text in _columns(row, name, figures["versions"])
        ]
        way = ", p2p" if row["is_p2p"] else ""
        lines.append(
            f"| {row['moment']} | {row['fault']}{way} | " + " | ".join(found) + " |"
        )
    return "\n".join([*lines, *_footnotes(figures), *_not_run(figures, tools)])


_LEGEND = (
    "What is said is how often, where the guest was afterwards and the exit status; *runs again* is from the end of"
    " the fault to the guest's next sign of life, where it was silent for more than 0.1 s: median, worst, and of how"
    " many runs. *Unnoticed*: a fault that lasts until it is noticed was not, and ended after"
    f" {NOTICE_S:g} s. **Bold**: a guest that could have survived did not, the exit status is wrong, something was left"
    f" behind, or the median is not below {LONGEST_BACK_S:g} s where both QEMUs were paused."
)


def _columns(row: Row, tool: str, versions: Mapping[str, str]) -> tuple[str, str]:
    cell, some = _cell(row), _outcomes(row, tool)
    if not some and not TOOLS[tool].comes_to(cell):
        return "never comes so far", "—"
    back = _back(some)
    if tool == OURS and not _is_prompt(row, versions):
        back = f"**{back}**"
    return _verdicts(cell, some, versions), back


def _verdicts(cell: Cell, some: Sequence[Outcome], versions: Mapping[str, str]) -> str:
    counted = Counter(
        (_verdict(each), not complaints(cell, each, versions)) for each in some
    )
    found = "; ".join(
        f"{count} × {text if good else f'**{text}**'}"
        for (text, good), count in counted.items()
    )
    return found or "—"


def _verdict(outcome: Outcome) -> str:
    statuses = {None: "hangs", -9: "killed"}
    status = statuses.get(outcome.status, f"exit {outcome.status}")
    memory = ", memory wrong" if outcome.memory_ok is False else ""
    missed = ", fault not injected" if outcome.not_injected else ""
    unnoticed = ", unnoticed" if outcome.is_unnoticed else ""
    return f"{outcome.guest}{memory}, {status}{missed}{unnoticed}{_left(outcome)}"


def _left(outcome: Outcome) -> str:
    if not outcome.left_behind:
        return ""
    is_all_forgotten = FORGOTTEN.issuperset(outcome.left_behind)
    return ", capabilities left on" if is_all_forgotten else ", something left behind"


def _back(some: Sequence[Outcome]) -> str:
    running = [each.back_s for each in some if each.runs]
    times = [each for each in running if each is not None]
    if not times:
        return "—"
    number = f"{len(times)}" + (
        f" of {len(running)}" if len(times) < len(running) else ""
    )
    return f"{statistics.median(times):.2f} ({max(times):.2f}), n={number}"


_WHY_LEFT = (
    "libvirt forgets what it had switched on in the destination's QEMU when its daemon there dies, and offers no call to"
    " switch it off but one that taints the domain; the next migration sets each of them anew, and saving and restoring"
    " works with them"
)


def _has_forgotten(row: Row) -> bool:
    """Whether that was seen with either tool."""
    return any(
        FORGOTTEN.intersection(each.left_behind)
        for name in TOOLS
        for each in _outcomes(row, name)
    )


def _footnotes(figures: Figures) -> list[str]:
    cells_with: dict[str, list[str]] = {}
    for row in figures["cells"]:
        if defect := _cell(row).defect(figures["versions"]):
            cells_with.setdefault(defect, []).append(str(_cell(row)))
        if _has_forgotten(row):
            cells_with.setdefault(_WHY_LEFT, []).append(str(_cell(row)))
    notes = [f"- {'; '.join(cells)}: {text}." for text, cells in cells_with.items()]
    return ["", *notes] if notes else []


def _not_run(figures: Figures, tools: Sequence[str]) -> list[str]:
    """Which cells are missing, tool by tool."""
    lines = []
    for tool in tools:
        ran = {_cell(row) for row in figures["cells"] if _outcomes(row, tool)}
        possible = filter(TOOLS[tool].comes_to, CELLS)
        missing = [str(cell) for cell in possible if cell not in ran]
        if missing:
            lines += ["", f"Not run with {tool}: {'; '.join(missing)}."]
    return lines


def no_cells() -> str:
    """Why the other pairs of moment and fault are no cells, as Markdown."""
    pairs: dict[str, dict[str, list[str]]] = {}
    for (moment, fault), reason in NO_CELL.items():
        pairs.setdefault(reason, {}).setdefault(fault, []).append(moment.value)
    lines = [
        "## Pairs of moment and fault that are not run",
        "",
        "| fault | moments | because |",
        "|---|---|---|",
    ]
    for reason, faults in pairs.items():
        moments = list(dict.fromkeys(each for some in faults.values() for each in some))
        lines.append(f"| {', '.join(faults)} | {', '.join(moments)} | {reason} |")
    return "\n".join(lines)
