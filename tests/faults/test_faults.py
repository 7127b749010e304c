"""A part of the matrix that is quick enough for every run; ``tools/bench faults`` runs all of it.

How it was chosen: four minutes for all, and of cells in which the same code decides, one.  So there is one way back
to the source, and each way in which a guest that is split goes on: by itself (a short cut), by a resume (the sockets
are killed, which is the fault whose time is promised), by a resume after one end has to be told (TCP gives up),
unattended (a daemon or the client is killed), a second time; managed by the client or peer to peer, in turns.  Then
the moment in which most is at stake, the switch, and the honest loss.  Faults that wait for a time limit of libvirt's,
half a minute each, and settings that are wrong from the beginning, which other tests have, are left to the bench.
"""

from __future__ import annotations

import pytest

from faults import CELLS, TOOLS, Cell, complaints, run_cell
from labkit import Lab
from scenes.bench_switch import versions

OURS = TOOLS["virsh-postcopy"]

EVERY_TIME = (
    "first pass, destination's daemon killed",
    "switch, link cut for 2 s",
    "switch, destination's daemon killed",
    "split, link cut for 2 s, p2p",
    "split, link cut until TCP gives up, ss -K",
    "split, sockets killed",
    "split, sockets killed, p2p",
    "split, destination's daemon killed, p2p",
    "split, source's daemon killed",
    "split, client killed",
    "split, destination's QEMU killed",
    "split again, sockets killed",
)


@pytest.mark.parametrize(
    "cell", [cell for cell in CELLS if str(cell) in EVERY_TIME], ids=str
)
def test_guest_survives_or_its_loss_is_told(lab: Lab, cell: Cell) -> None:
    outcome = run_cell(lab, OURS, cell)
    assert not complaints(cell, outcome, versions(lab)), outcome
