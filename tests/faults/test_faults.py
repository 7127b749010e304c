"""A part of the matrix that is quick enough for every run; ``tools/bench faults`` runs all of it."""

from __future__ import annotations

import pytest

from faults import TOOLS, Cell, cells, run_cell
from faults.matrix import CELLS
from labkit import Lab

OURS = TOOLS["virsh-postcopy"]

EVERY_TIME = (
    "first pass, destination's daemon killed",
    "first pass, sockets killed",
    "split, link cut for 2 s",
    "split, link cut until TCP gives up, ss -K",
    "split, sockets killed",
    "split, destination's daemon killed",
    "split, source's daemon killed",
    "split, client killed",
    "split, migrate-pause by somebody",
    "split, destination's QEMU killed",
    "split, source's QEMU killed",
    "split again, sockets killed",
)


@pytest.mark.parametrize(
    "cell", [cell for name in EVERY_TIME for cell in cells(name)], ids=str
)
def test_guest_survives_or_its_loss_is_told(lab: Lab, cell: Cell) -> None:
    outcome = run_cell(lab, OURS, cell)
    assert outcome.runs is cell.can_survive, outcome
    assert outcome.is_honest, outcome


def test_each_cell_has_its_own_name() -> None:
    assert len({str(cell) for cell in CELLS}) == len(CELLS)
    assert set(EVERY_TIME) <= {str(cell) for cell in CELLS}
