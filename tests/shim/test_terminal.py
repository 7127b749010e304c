"""Terminals, signals and streams: a program that is passed through is the real virsh in all of this."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress

import pytest

from shim.conftest import (
    PATIENCE_S,
    Ended,
    Pair,
    catches,
    children_of,
    on_terminal,
    read_until,
    rest,
    sleeps,
    timeless,
)
from waiting import wait_until

VIRSH = ["virsh", "-c", "test:///default"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_what_is_passed_through_as_virsh(
    pair: Pair, number: signal.Signals
) -> None:
    statuses = []
    words = ["event", "--loop", "--event", "lifecycle"]
    for env in pair.environs:
        with on_terminal([*VIRSH, *words], env) as (process, _):
            wait_until(lambda p=process: is_virsh(p, pair), "virsh", PATIENCE_S)
            wait_until(lambda p=process: is_waiting(p), "its loop", PATIENCE_S)
            process.send_signal(number)
            statuses.append(process.wait(PATIENCE_S))
    assert statuses[0] == statuses[1]


def is_virsh(process: subprocess.Popen[bytes], pair: Pair) -> bool:
    return os.readlink(f"/proc/{process.pid}/exe") == os.path.realpath(pair.virsh)


def is_waiting(process: subprocess.Popen[bytes]) -> bool:
    """virsh waits for events when it has begun to catch SIGINT."""
    return catches(process.pid, signal.SIGINT)


REDIRECTIONS = (">&-", "2>&-", "<&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full")
WORDS = ("", "list", "list --foo", "help list", "migrate --postcopy")


@pytest.mark.parametrize(
    "words, redirection",
    [
        (words, each)
        for words in WORDS
        for each in REDIRECTIONS
        if words or "<" not in each  # virsh's shell waits for ever then
    ],
)
def test_streams(compare: Callable[..., Ended], words: str, redirection: str) -> None:
    compare(["bash", "-c", f"virsh -c test:///default {words} {redirection}"])


def test_reader_that_has_enough(compare: Callable[..., Ended]) -> None:
    """It has gone before virsh writes."""
    done = compare(
        ["bash", "-c", "exec 3> >(true); wait $!; virsh capabilities >&3; echo $?"]
    )
    assert done.out == b"141\n"


@pytest.mark.parametrize(
    "words",
    [
        "-c test:///default migrate-start-postcopy test",
        "-c test:///default migrate --live --strict-exit test test:///default",
        "-c test:///default postcopy-check test test:///default",
        "help postcopy",
    ],
)
def test_ours_on_a_terminal_and_not(pair: Pair, words: str) -> None:
    """The same words; standard output and error are told apart only where they are apart."""
    argv = ["virsh", *words.split()]
    plain = pair.ours(argv)
    with on_terminal(argv, pair.environs[1]) as (process, terminal):
        status = process.wait(PATIENCE_S)
        shown = rest(terminal)
    assert status == plain.status
    expected = (plain.out + plain.err).split()
    assert sorted(timeless(shown).split()) == sorted(expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_to_who_feeds_virsh_reaches_it(
    pair: Pair, number: signal.Signals
) -> None:
    """What ends virsh ends us in the same way, and nothing is left."""
    statuses = []
    for env in pair.environs:
        process = subprocess.Popen(
            VIRSH, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout is not None and process.stdin is not None
        read_until(process.stdout.fileno(), b"virsh # ")
        children = children_of(process.pid)
        for each in (process.pid, *children):  # readline misses what comes too soon
            wait_until(lambda p=each: sleeps(p), "a wait for a line", PATIENCE_S)
        process.send_signal(number)
        if number is signal.SIGINT:  # as from a terminal: to both
            for child in children:
                with suppress(ProcessLookupError):  # it has been passed on
                    os.kill(child, number)
            process.stdin.close()
        statuses.append(process.wait(PATIENCE_S))
        for child in children:
            with pytest.raises(ProcessLookupError):
                os.kill(child, 0)
        process.stdout.close()
        with suppress(OSError):
            process.stdin.close()
    assert statuses[0] == statuses[1]
