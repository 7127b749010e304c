"""What becomes of the guest when something breaks, ours beside virsh's.

Each cell of the matrix (``tests/faults``) is one migration with one fault at one moment; the tools take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from faults import TOOLS, Cell, Outcome, cells, run_cell
from faults.matrix import CELLS
from labkit import Lab
from libvirt_postcopy.vir.events import ensure_event_loop
from scenes.bench_switch import versions

__all__ = ["TITLE", "add_arguments", "is_good", "measure", "table"]

TITLE = "Faults: what becomes of the guest"

OURS = "virsh-postcopy"
LONGEST_BACK_S = 2.0
"""Median from the end of a fault to the guest's next sign of life, where both QEMUs were paused."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this bench alone."""
    parser.add_argument(
        "--only",
        action="append",
        metavar="TEXT",
        help="cells with this in their name; may be repeated",
    )
    parser.add_argument(
        "--tool", choices=sorted(TOOLS), action="append", help="default: both"
    )
    parser.add_argument(
        "--read",
        type=Path,
        action="append",
        metavar="FILE",
        help="measure nothing: put together what was kept with --json; may be repeated",
    )


def merge(several: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Put figures of several runs together, one set for each pair of versions."""
    sets: dict[str, dict[str, Any]] = {}
    for figures in several:
        made = sets.setdefault(
            json.dumps(figures["versions"]),
            {"versions": figures["versions"], "cells": []},
        )
        for row in figures["cells"]:
            key = (row["moment"], row["fault"])
            known = next((each for each in made["cells"] if _key(each) == key), None)
            if known is None:
                made["cells"].append({**row, "outcomes": dict(row["outcomes"])})
                continue
            for name, some in row["outcomes"].items():
                known["outcomes"][name] = [*known["outcomes"].get(name, ()), *some]
    for made in sets.values():
        made["cells"].sort(key=lambda row: _ORDER.index(_key(row)))
    return list(sets.values())


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["moment"], row["fault"]


def _key_of(cell: Cell) -> tuple[str, str]:
    return cell.moment.value, cell.fault.name


_ORDER = [_key_of(cell) for cell in CELLS]


def measure(lab: Lab, args: argparse.Namespace) -> dict[str, Any]:
    """Run each cell ``args.runs`` times with each tool."""
    ensure_event_loop()
    tools = [TOOLS[name] for name in args.tool or TOOLS]
    rows = []
    for cell in _chosen(args.only or [""]):
        outcomes: dict[str, list[Outcome]] = {tool.name: [] for tool in tools}
        for _ in range(args.runs):
            for tool in tools:
                outcome = run_cell(lab, tool, cell)
                outcomes[tool.name].append(outcome)
                print(f"{tool.name}: {cell}: {_word(outcome)}", file=sys.stderr)
        rows.append(_row(cell, outcomes))
    return {"versions": versions(lab), "cells": rows}


def _chosen(texts: Sequence[str]) -> list[Cell]:
    wanted = {cell for text in texts for cell in cells(text)}
    return [cell for cell in CELLS if cell in wanted]


def _row(cell: Cell, outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, Any]:
    return {
        "moment": cell.moment.value,
        "fault": cell.fault.name,
        "can_survive": cell.can_survive,
        "outcomes": {
            name: [
                {**asdict(each), "runs": each.runs, "is_honest": each.is_honest}
                for each in some
            ]
            for name, some in outcomes.items()
        },
    }


def is_good(figures: Mapping[str, Any]) -> bool:
    """Ours: whoever can survive does, and the exit status is never wrong."""
    ours = [(row, each) for row in figures["cells"] for each in _of(row, OURS)]
    return all(_is_good(row, each, figures["versions"]) for row, each in ours)


CRASHES = (
    "libvirt 11.2.0 to 11.3.0 crash when a migration is resumed through them, so it is never tried and both halves"
    " are kept; 11.4.0 can"
)


def _defect(row: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    """What makes it impossible to survive, of QEMU or of libvirt."""
    cell = next(cell for cell in CELLS if _key_of(cell) == _key(row))
    cannot_resume = versions["libvirt"].startswith(("11.2.", "11.3."))
    return CRASHES if cannot_resume and cell.needs_resume else cell.defect


def _is_good(
    row: Mapping[str, Any], each: Mapping[str, Any], versions: Mapping[str, str]
) -> bool:
    can_survive = row["can_survive"] and not _defect(row, versions)
    return each["is_honest"] and (each["runs"] or not can_survive)


def _of(row: Mapping[str, Any], tool: str) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = row["outcomes"].get(tool, ())
    return found


def table(figures: Mapping[str, Any]) -> str:
    """One row a cell, as Markdown."""
    tools = [name for name in TOOLS if any(_of(row, name) for row in figures["cells"])]
    text = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    titles = [title for name in tools for title in (name, "runs again after, s")]
    lines = [
        (
            f"{text}. What is said is how often, where the guest was afterwards and"
            " the exit status; *runs again* is from the end of the fault to the guest's next sign of life, median"
            " and worst, where it was silent. **Bold**: a guest that could have survived did not, or the exit"
            " status is wrong."
        ),
        "",
        "| moment | fault | " + " | ".join(titles) + " |",
        "|---|---|" + "---|" * len(titles),
    ]
    for row in figures["cells"]:
        found = [
            cell
            for name in tools
            for cell in (
                _verdicts(row, _of(row, name), figures["versions"]),
                _back(_of(row, name)),
            )
        ]
        lines.append(
            f"| {row['moment']} | {row['fault']} | " + " | ".join(found) + " |"
        )
    lines += _footnotes(figures)
    return "\n".join(lines)


def _verdicts(
    row: Mapping[str, Any],
    some: Sequence[Mapping[str, Any]],
    versions: Mapping[str, str],
) -> str:
    counted = Counter((_verdict(each), _is_good(row, each, versions)) for each in some)
    found = "; ".join(
        f"{count} × {text if good else f'**{text}**'}"
        for (text, good), count in counted.items()
    )
    return found or "—"


def _verdict(each: Mapping[str, Any]) -> str:
    statuses = {None: "hangs", -9: "killed"}
    status = statuses.get(each["status"], f"exit {each['status']}")
    memory = {True: "", False: ", memory wrong", None: ""}[each["memory_ok"]]
    return f"{each['guest']}{memory}, {status}"


def _word(outcome: Outcome) -> str:
    return _verdict(asdict(outcome))


def _back(some: Iterable[Mapping[str, Any]]) -> str:
    times = [each["back_s"] for each in some if each["back_s"] and each["runs"]]
    if not times:
        return "—"
    return f"{statistics.median(times):.2f} ({max(times):.2f})"


def _footnotes(figures: Mapping[str, Any]) -> list[str]:
    cells_with: dict[str, list[str]] = {}
    for row in figures["cells"]:
        if defect := _defect(row, figures["versions"]):
            cells_with.setdefault(defect, []).append(" ".join(_key(row)))
    notes = [f"- {'; '.join(cells)}: {text}." for text, cells in cells_with.items()]
    return ["", *notes] if notes else []
