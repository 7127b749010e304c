"""What happens to the guest when something breaks: faults by phase, on a real lab, ours beside virsh.

A cell is one migration of a busy guest, one moment of it, and one fault injected at that moment.  The moment is
an event (QEMU says that a pass begins), never a time.  Afterwards the truth is looked up: which hosts have a QEMU
of the guest, whether it runs, whether its memory is right; and compared with what the exit status promised.
"""

from faults.cell import TOOLS, Tool, run_cell
from faults.faults import FAULTS, Fault
from faults.matrix import CELLS, FORGOTTEN, NO_CELL, Cell, cells
from faults.moments import Moment, Moments
from faults.outcome import Outcome, complaints

__all__ = [
    "CELLS",
    "Cell",
    "FAULTS",
    "FORGOTTEN",
    "Fault",
    "Moment",
    "Moments",
    "NO_CELL",
    "Outcome",
    "TOOLS",
    "Tool",
    "cells",
    "complaints",
    "run_cell",
]
