"""The table of faults, from figures of several runs."""

from __future__ import annotations

from typing import Any

import pytest

from scenes.bench_faults import is_good, merge, table


def run(
    status: int | None,
    guest: str,
    *,
    moment: str = "split",
    fault: str = "sockets killed",
    libvirt: str = "9.0.0",
    tool: str = "virsh-postcopy",
    back_s: float | None = None,
) -> dict[str, Any]:
    runs = guest in ("source", "destination")
    promised = {"destination": 0, "source": 1, "split": 3, "lost": 4}
    outcome = {
        "status": status,
        "guest": guest,
        "memory_ok": True if runs else None,
        "back_s": back_s,
        "runs": runs,
        "is_honest": promised[guest] == status,
    }
    row = {"moment": moment, "fault": fault, "can_survive": True, "outcomes": {tool: [outcome]}}  # fmt: skip
    return {"versions": {"libvirt": libvirt, "QEMU": "7.2.22"}, "cells": [row]}


def test_runs_of_a_cell_are_counted_together() -> None:
    runs = [run(0, "destination", back_s=each) for each in (0.2, 0.4, 1.5)]
    (figures,) = merge([*runs, run(1, "split", tool="virsh")])
    assert "| split | sockets killed | 3 × destination, exit 0 | 0.40 (1.50) | 1 × **split, exit 1** | — |" in table(figures)  # fmt: skip
    assert is_good(figures), "what virsh does is not ours"


def test_each_pair_of_versions_has_its_own_table() -> None:
    several = merge([run(0, "destination"), run(0, "destination", libvirt="12.8.0")])
    assert [figures["versions"]["libvirt"] for figures in several] == ["9.0.0", "12.8.0"]  # fmt: skip


@pytest.mark.parametrize("status, guest", [(3, "split"), (0, "split"), (None, "destination"), (4, "lost")])  # fmt: skip
def test_guest_that_could_have_survived_must(status: int | None, guest: str) -> None:
    (figures,) = merge([run(status, guest)])
    assert not is_good(figures)
    assert "1 × **" in table(figures)


def test_daemon_that_cannot_resume_leaves_it_split_and_is_named() -> None:
    (figures,) = merge([run(3, "split", libvirt="11.3.0")])
    assert is_good(figures) and "**split" not in table(figures)
    assert "- split sockets killed: libvirt 11.2.0 to 11.3.0 crash" in table(figures)
    (figures,) = merge([run(3, "split", libvirt="11.3.0", fault="link cut for 2 s")])
    assert not is_good(figures)


def test_cells_come_in_the_order_of_a_migration() -> None:
    (figures,) = merge([run(0, "destination"), run(1, "source", moment="first pass")])
    assert [row["moment"] for row in figures["cells"]] == ["first pass", "split"]


def test_own_kill_is_no_lie() -> None:
    cell = run(-9, "source", moment="first pass", fault="client killed", tool="virsh")
    (figures,) = merge([cell])
    assert "source, killed" in table(figures)
