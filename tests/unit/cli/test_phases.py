from __future__ import annotations

import io
from pathlib import Path

from libvirt_postcopy.cli.commands.phases import to_dot, to_table
from libvirt_postcopy.cli.main import main
from libvirt_postcopy.events import Side
from libvirt_postcopy.phases import TRANSITIONS, Phase

DRAWING = Path(__file__).parents[3] / "docs" / "phases.dot"


def moves() -> set[tuple[str, str, str, str]]:
    return {
        (side.value, phase.value, status.value, after.value)
        for side in Side
        for phase, row in TRANSITIONS[side].items()
        for status, after in row.items()
    }


def test_table_has_every_move_once() -> None:
    upper, _, lower = to_table().partition("\n\n")
    head, *rows = upper.splitlines()
    edges = [
        0,
        *(head.index(word) for word in ("PHASE", "STATUS", "NEXT")),
        max(map(len, rows)),
    ]
    found = []
    for row in rows:
        cells = [
            row[a:b].strip() for a, b in zip(edges[:-1], [*edges[1:-1], edges[-1]])
        ]
        side, phase, statuses, after = cells
        found += [(side, phase, status, after) for status in statuses.split(", ")]
    assert len(found) == len(set(found))
    assert set(found) == moves()


def test_table_says_where_the_guest_is() -> None:
    places = dict(
        line.rsplit(None, 1)
        for line in to_table().partition("\n\n")[2].splitlines()[1:]
    )
    assert places["post-copy"] == "split" and places["pre-copy"] == "source"
    assert places["completed"] == "destination" and len(places) == len(Phase)


def test_drawing_has_every_move_that_leads_on() -> None:
    drawn = to_dot().splitlines()
    for side, phase, status, after in moves():
        arrow = f'"{side} {phase}" -> "{side} {after}"'
        lines = [line for line in drawn if arrow in line]
        assert len(lines) == (phase != after)
        assert all(status in line for line in lines)
    assert to_dot().count("{") == to_dot().count("}") == 3


def test_drawing_in_the_documentation_is_of_today() -> None:
    out = io.StringIO()
    assert main(["phases", "--dot"], out) == 0
    assert out.getvalue() == DRAWING.read_text(encoding="utf-8"), (
        "run: libvirt-postcopy phases --dot > docs/phases.dot"
    )  # fmt: skip


def test_table_is_what_is_printed_otherwise() -> None:
    out = io.StringIO()
    assert main(["phases"], out) == 0
    assert out.getvalue() == to_table()
