"""What became of the guest, and whether that is what was promised."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from faults.matrix import Cell

__all__ = ["Outcome", "complaints"]


@dataclass(frozen=True)
class Outcome:
    """What became of the guest.

    :ivar status: The client's exit status; None if it hangs.
    :ivar guest: ``destination``, ``source``, ``split``, ``lost``, ``stopped`` if it is whole but does not run, or
        ``two`` if two of it ran.
    :ivar memory_ok: Every page right; None where no guest runs.
    :ivar back_s: From the end of the fault to the guest's next sign of life; None where there was none, or it was
        never silent.
    :ivar text: What the client said last.
    :ivar is_killed: The client was killed by the cell's own fault, and nothing took its place.
    :ivar not_injected: Why the fault did not take place; empty if it did.
    :ivar is_unnoticed: The fault was to last until somebody noticed, and nobody did.
    :ivar left_behind: What the migration has left on the hosts, in words; looked for where the guest runs.
    :ivar ends: How libvirt says that the guest's QEMU ended, by host, where it did.
    """

    status: int | None
    guest: str
    memory_ok: bool | None = None
    back_s: float | None = None
    text: str = ""
    is_killed: bool = False
    not_injected: str = ""
    is_unnoticed: bool = False
    left_behind: Sequence[str] = ()
    ends: Mapping[str, str] | None = None

    @property
    def runs(self) -> bool:
        """One copy of the guest runs, its memory right."""
        return self.guest in ("source", "destination") and self.memory_ok is True

    @property
    def is_honest(self) -> bool:
        """The exit status says where the guest is, or is that of our own SIGKILL."""
        if self.is_killed:
            return self.status == -signal.SIGKILL
        return self.guest in _PROMISED and self.status == _PROMISED[self.guest]


_PROMISED = {"destination": 0, "source": 1, "split": 3, "lost": 4}


def complaints(
    cell: Cell, outcome: Outcome, versions: Mapping[str, str]
) -> Sequence[str]:
    """What is wrong with an outcome, in words; nothing if all is as promised."""
    found = []
    if outcome.not_injected:
        found.append(f"not injected: {outcome.not_injected}")
    if not outcome.runs and (
        cell.can_survive(versions) or outcome.memory_ok is not None
    ):
        found.append(f"the guest does not run: {outcome.guest}")
    if outcome.guest == "two":
        found.append("two copies ran")
    if not outcome.is_honest:
        found.append(f"exit status {outcome.status} where the guest is {outcome.guest}")
    left = set(outcome.left_behind) - cell.what_is_forgotten
    return [*found, *sorted(left)]
