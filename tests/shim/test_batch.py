"""Command strings with a command of ours among virsh's."""

from __future__ import annotations

import pytest

from shim.conftest import Ended, Pair

OURS = "migrate-start-postcopy nosuch"
FAILS = b"failed to get domain 'nosuch'"


def run(pair: Pair, string: str, *options: str) -> Ended:
    words = ["virsh", "-c", "test:///default", *options, string]
    return pair.run(["bash", "-c", '"$@" 2>&1', "bash", *words])[1]


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
        lines = run(pair, string).out.splitlines()
        shapes.append([b"error" if line[:6] == b"error:" else line for line in lines])
    theirs = [line for at, line in enumerate(shapes[1]) if line != b"error" or shapes[1][at - 1] != b"error"]  # fmt: skip
    assert shapes[0] == theirs


def test_time_is_told_of_each(pair: Pair) -> None:
    assert run(pair, f"echo a; {OURS}; echo b", "-t").out.count(b"(Time: T ms)") == 3


@pytest.mark.parametrize("end", ["quit", "exit"])
def test_nothing_comes_after_the_end(pair: Pair, end: str) -> None:
    done = run(pair, f"{OURS}; echo a; {end}; {OURS}; echo b")
    assert done.out.count(FAILS) == 1 and b"b\n" not in done.out.replace(FAILS, b"")


def test_connect_counts_for_what_follows(pair: Pair) -> None:
    done = run(pair, "migrate-start-postcopy test; connect test:///default --readonly; migrate-start-postcopy test; suspend test")  # fmt: skip
    refused = b"read only access prevents virDomainMigrateStartPostCopy"
    assert done.out.count(refused) == 1 and b"read only access prevents virDomainSuspend" in done.out  # fmt: skip
    assert done.out.index(refused) > done.out.index(b"not supported by the connection driver")  # fmt: skip


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
    done = pair.run(words)[1]
    assert done.status == 1 and done.out == b""
