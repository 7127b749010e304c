"""What a bench does with its pairs, and what is known of their processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from libvirt_postcopy.conformance.live import Bench
from libvirt_postcopy.conformance.machine import Machine
from libvirt_postcopy.conformance.monitor import Hung, Record
from libvirt_postcopy.conformance.pair import Pair
from waiting import wait_until


def test_a_pair_that_was_being_made_when_the_run_was_stopped_is_given_up(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    pair = Pair.__new__(Pair)
    pair.record = Record()
    bench.stop()
    with bench.watch(pair), pytest.raises(Hung):
        pair.record.wait(lambda line: True, "a line", timeout_s=60)


def of_process(pid: int) -> Machine:
    machine = Machine.__new__(Machine)
    machine.process = cast(Any, SimpleNamespace(pid=pid))
    return machine


@pytest.mark.programs
def test_a_process_is_at_rest_when_it_waits() -> None:
    assert not of_process(os.getpid()).is_at_rest()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as waits:
        wait_until(
            of_process(waits.pid).is_at_rest, "a wait for what is to be read", 30
        )
        assert of_process(waits.pid).threads() == 1
        assert waits.stdin is not None
        waits.stdin.close()
