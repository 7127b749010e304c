"""What a bench does with its pairs, and what is known of their processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from libvirt_postcopy.conformance.introspection import Facts
from libvirt_postcopy.conformance.live import Bench
from libvirt_postcopy.conformance.machine import Machine
from libvirt_postcopy.conformance.monitor import Hung, Record
from libvirt_postcopy.conformance.pair import Pair
from libvirt_postcopy.conformance.scenarios import switch
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


class Watched:
    """A side of a pair, and what it was looked at for."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.machine = self

    def is_at_rest(self) -> bool:
        self.seen.append("rest")
        return True

    def threads(self) -> int:
        self.seen.append("threads")
        return 1

    def cmd(self, name: str, arguments: object) -> None:
        self.seen.append(name)


def pair_of(version: tuple[int, ...]) -> tuple[Pair, Watched, Watched]:
    pair, src, dst = Pair.__new__(Pair), Watched(), Watched()
    pair.record = Record()
    pair.facts = pair.dst_facts = Facts(version=version)
    pair.src, pair.dst = cast(Any, src), cast(Any, dst)
    pair._idle_threads = 1
    return pair, src, dst


@pytest.mark.parametrize("version, rests", [((5, 2, 0), True), ((8, 1, 1), True), ((8, 1, 2), False), ((11, 1, 2), False)])  # fmt: skip
def test_a_source_rests_before_a_resume_where_it_could_die_of_it(
    version: tuple[int, ...], rests: bool
) -> None:
    pair, src, _ = pair_of(version)
    pair.resume("unix:somebody")
    assert src.seen[-1] == "migrate" and ("rest" in src.seen) is rests
    src.seen.clear()
    pair.migrate("unix:nobody", resume=True)
    assert src.seen == ["migrate"]


@pytest.mark.parametrize("version, waits", [((5, 2, 0), True), ((10, 0, 13), True), ((10, 1, 0), False), ((11, 1, 2), False)])  # fmt: skip
def test_a_listener_is_waited_for_where_a_question_could_kill_it(
    version: tuple[int, ...], waits: bool
) -> None:
    pair, _, dst = pair_of(version)
    pair.let_listener_end()
    assert dst.seen == (["threads"] if waits else [])


@pytest.mark.parametrize("value, waits", [({}, False), ({"remaining": 9}, False), ({"remaining": 0}, True)])  # fmt: skip
def test_a_source_that_has_not_counted_yet_is_asked_again_after_a_pass(
    value: dict[str, int], waits: bool
) -> None:
    waited = []

    class Source:
        def cmd(self, name: str) -> Any:
            return SimpleNamespace(value=value, cmd=name)

        def wait(self, name: str, after: str) -> None:
            waited.append((name, after))

    switch.await_count(cast(Any, SimpleNamespace(src=Source())))
    assert waited == ([("MIGRATION_PASS", "query-migrate")] if waits else [])
