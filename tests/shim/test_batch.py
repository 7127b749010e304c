"""Command strings with a command of ours among virsh's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from shim.conftest import PATIENCE_S, Ended, Pair, catches, children_of, ended
from waiting import wait_until

OURS = "migrate-start-postcopy nosuch"
FAILS = b"failed to get domain 'nosuch'"


def run(pair: Pair, string: str, *options: str) -> Ended:
    words = ["virsh", "-c", "test:///default", *options, string]
    return pair.ours(["bash", "-c", '"$@" 2>&1', "bash", *words])


def places(done: Ended, *what: bytes) -> list[int]:
    """Where things are in the output; each must be there."""
    return [done.out.index(each) for each in what]


def test_order(pair: Pair) -> None:
    done = run(pair, f"echo one; {OURS}; echo two # {OURS}\n{OURS}\necho three")
    found = places(done, b"one", FAILS, b"two", b"three")
    assert found == sorted(found) and done.out.count(FAILS) == 2
    assert done.status == 0


@pytest.mark.parametrize(
    "string, status",
    [(f"echo a; {OURS}", 1), (f"{OURS}; echo a", 0), (f"{OURS}; domstate nosuch", 1), ("help postcopy; domstate nosuch", 1),
     ("domstate nosuch; help postcopy", 0)],
)  # fmt: skip
def test_status_is_that_of_the_last(pair: Pair, string: str, status: int) -> None:
    assert run(pair, string).status == status


def test_blank_lines_are_virshs(pair: Pair) -> None:
    """As where the real virsh refuses a command of its own in the place of ours."""
    both = f"echo a; {OURS}; list; echo b", "echo a; domstate nosuch; list; echo b"
    shapes = []
    for string in both:
        lines = [line for line in run(pair, string).out.splitlines() if line[:6] != b"note: "]  # fmt: skip
        shapes.append([b"error" if line[:6] == b"error:" else line for line in lines])
    theirs = [line for at, line in enumerate(shapes[1]) if line != b"error" or shapes[1][at - 1] != b"error"]  # fmt: skip
    assert shapes[0] == theirs


def test_time_is_told_of_each(pair: Pair) -> None:
    assert run(pair, f"echo a; {OURS}; echo b", "-t").out.count(b"(Time: T ms)") == 3


@pytest.mark.parametrize("end", ["'foo", "foo '", "foo' # '"])
def test_apostrophe_that_is_not_closed_runs_nothing_twice(pair: Pair, end: str) -> None:
    """virsh takes it: asking whether it can read the string must not run it."""
    done = run(pair, f"echo one; {OURS}; echo {end}")
    assert done.out.count(b"one") == 1 and done.out.count(FAILS) == 1
    assert b"foo" in done.out and done.status == 0


@pytest.mark.parametrize("end", ["quit", "exit"])
def test_nothing_comes_after_the_end(pair: Pair, end: str) -> None:
    done = run(pair, f"{OURS}; echo a; {end}; {OURS}; echo b")
    assert done.out.count(FAILS) == 1 and b"b\n" not in done.out.replace(FAILS, b"")


def test_connect_counts_for_what_follows(pair: Pair) -> None:
    done = run(pair, "migrate-start-postcopy test; connect test:///default --readonly; migrate-start-postcopy test; suspend test")  # fmt: skip
    refused = b"read only access prevents virDomainMigrateStartPostCopy"
    assert done.out.count(refused) == 1 and b"read only access prevents virDomainSuspend" in done.out  # fmt: skip
    assert done.out.index(refused) > done.out.index(b"not supported by the connection driver")  # fmt: skip


def test_what_follows_the_last_of_ours_is_run_by_one_virsh(
    pair: Pair, tmp_path: Path
) -> None:
    log, virsh = tmp_path / "log", tmp_path / "virsh"
    virsh.write_text(f'#!/bin/sh\necho "$2" >>{log}\nexec {pair.virsh} "$@"\n')
    virsh.chmod(0o700)
    theirs = "connect test:///default; suspend test; quit; echo b"
    string = f"echo a; {OURS}; {theirs}"
    words = ["env", f"VIRSH_POSTCOPY_VIRSH={virsh}", "virsh", "--connect=test:///default", string]  # fmt: skip
    done = ended(words, pair.environs[1], b"")
    assert done.status == 0 and done.out.count(b"suspended") == 1
    asked, first, second = log.read_text().splitlines()[-3:]
    assert (first.strip(), second.strip()) == ("echo a;", theirs)


def test_connect_that_fails_changes_nothing(pair: Pair) -> None:
    done = run(pair, "connect nosuch:///x; migrate-start-postcopy test")
    assert b"not supported by the connection driver: virDomainMigrateStartPostCopy" in done.out  # fmt: skip


@pytest.mark.parametrize(
    "string, complaint",
    [
        ("echo ran; migrate-start-postcopy --foo; echo ran", b"error: command 'migrate-start-postcopy' doesn't support option --foo\n"),
        (f"echo ran; {OURS}; frobnicate; echo ran", b"error: unknown command: 'frobnicate'\n"),
        (f'echo ran; {OURS}; echo "', b'error: missing "\n'),
        (f"echo ran; {OURS}; echo \\", b"error: dangling \\\n"),
        (f"echo ran; list --foo; {OURS}; migrate-start-postcopy --bar", b"error: command 'list' doesn't support option --foo\n"),
        ("echo ran; migrate-start-postcopy --bar; list --foo", b"error: command 'migrate-start-postcopy' doesn't support option --bar\n"),
        ("echo ran; migrate-start-postcopy", b"error: command 'migrate-start-postcopy' requires <domain> option\n"),
    ],
)  # fmt: skip
def test_mistake_runs_nothing(pair: Pair, string: str, complaint: bytes) -> None:
    done = run(pair, string)
    assert (done.status, done.out) == (1, complaint)


def test_source_that_cannot_be_reached(pair: Pair) -> None:
    words = ["virsh", "-c", "nosuch:///x", f"{OURS}; {OURS}"]
    done = pair.ours(words)
    assert done.status == 1 and done.out == b""


def test_help_lists_ours_too(pair: Pair) -> None:
    done = run(pair, "echo a; help; echo b")
    found = places(done, b"a\n", b"Domain Management", b"keyword 'postcopy'")
    assert found == sorted(found) and done.out.endswith(b"\nb\n") and done.status == 0


def test_commands_of_ours_share_a_connection(pair: Pair) -> None:
    """The test driver's domains are those of a connection, and so is what is said of a read-only one."""
    text = "libvirt: 1 connection"
    code = COUNT.format(text=text)
    argv = [
        sys.executable,
        "-c",
        code,
        "-c",
        "test:///default",
        f"{OURS}; echo a; {OURS}",
    ]
    done = ended(argv, pair.environs[1], b"")
    assert done.out.count(FAILS) == 0 and done.err.count(FAILS) == 2
    assert done.out.splitlines()[-1] == text.encode()


COUNT = """
import sys, libvirt, os
opened, open_auth = [], libvirt.openAuth
libvirt.openAuth = lambda *args: opened.append(args) or open_auth(*args)
sys.argv[0] = "virsh-postcopy"
from libvirt_postcopy.virsh.main import main
main()
print("libvirt:", len(opened), "connection", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_who_runs_a_string_reaches_virsh(
    pair: Pair, number: signal.Signals
) -> None:
    """Not only what a terminal sends to both."""
    string = "event --loop --event lifecycle; migrate-start-postcopy nosuch"
    process = subprocess.Popen(
        ["virsh", "-c", "test:///default", string],
        env=pair.environs[1],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        wait_until(lambda: is_in_its_loop(process.pid, pair), "the loop", PATIENCE_S)
        process.send_signal(number)
        said = process.communicate(timeout=PATIENCE_S)[1]
    finally:
        process.kill()
        process.wait()
    if number is signal.SIGINT:  # virsh ends its loop, and goes on
        assert FAILS in said
    else:
        assert process.returncode == -number


def is_in_its_loop(process: int, pair: Pair) -> bool:
    """virsh catches SIGINT from then on."""
    for child in children_of(process):
        with suppress(OSError):
            if os.readlink(f"/proc/{child}/exe") == os.path.realpath(pair.virsh):
                return catches(child, signal.SIGINT)
    return False
