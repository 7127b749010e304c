"""What cannot work gets one line: what, which side, the cure. The guest stays where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import URI, migrate

import libvirt_postcopy as postcopy
from labkit import Lab
from scenes.stage import Stage

Check = Callable[[], None]
POSTCOPY = ["--live", "--postcopy", "--postcopy-after-precopy"]

RUNS = "; the guest runs on the source ("

WRONG = [
    pytest.param([*POSTCOPY, "--bogus"], URI, ["--bogus"], id="wrong option"),
    pytest.param(
        ["--live", "--postcopy-policy", "sometimes"],
        URI,
        ["unknown policy 'sometimes'", "after-precopy"],
        id="unknown policy",
    ),
    pytest.param(
        ["--live", "--postcopy-after", "soon"],
        URI,
        ["invalid postcopy-after parameter", "write 30, 30s"],
        id="not a duration",
    ),
    pytest.param(
        POSTCOPY,
        "qemu+tcp://nowhere/system",
        ["destination", "nowhere", RUNS, "check the name"],
        id="unknown host",
    ),
    pytest.param(
        [*POSTCOPY, "--p2p"],
        "qemu+tcp://nowhere/system",
        ["destination", "nowhere", "check the name"],
        id="unknown host, peer to peer",
    ),
    pytest.param(
        POSTCOPY,
        "qemu+tcp://client/system",
        ["destination", "client", "daemon listens"],
        id="no daemon there",
    ),
    pytest.param(
        POSTCOPY,
        "qemu+tcp://a/system",
        ["destination", "same host", "name another host"],
        id="destination is the source",
    ),
    pytest.param(
        [*POSTCOPY, "--p2p", "--tunnelled"], URI, ["tunnelled", "--tls"], id="tunnelled"
    ),
    pytest.param(["--offline", "--postcopy"], URI, ["offline"], id="offline"),
    pytest.param(
        [*POSTCOPY, "--suspend"], URI, ["--suspend is asked for", RUNS], id="paused"
    ),
    pytest.param(
        POSTCOPY, "b/system", ["driver name", "qemu+ssh://b/system"], id="no driver"
    ),
    pytest.param(
        [*POSTCOPY, "--migrateuri", "tcp://nowhere"],
        URI,
        ["source", "nowhere", RUNS, "--migrateuri tcp://address"],
        id="migration to an unknown host",
    ),
    pytest.param(
        [*POSTCOPY, "--migrateuri", "b"],
        URI,
        ["missing scheme", RUNS, "--migrateuri tcp://"],
        id="migration URI without a scheme",
    ),
    pytest.param(
        [*POSTCOPY, "--tls"],
        URI,
        ["destination: no TLS certificates", RUNS, "server-cert.pem"],
        id="no TLS certificates",
    ),
    pytest.param(
        POSTCOPY,
        "qemu+tls://b/system",
        ["client: cannot read CA certificate", RUNS, "qemu+ssh"],
        id="no TLS certificates of the client",
    ),
    pytest.param(
        [*POSTCOPY, "--p2p"],
        "qemu+tls://b/system",
        ["source: cannot read CA certificate", RUNS, "qemu+ssh"],
        id="no TLS certificates of the source's daemon",
    ),
    pytest.param(["--postcopy"], URI, ["--live"], id="not live"),
]


def _one_line(text: str) -> str:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("error: ")
    return lines[0].lower()


@pytest.mark.parametrize(("options", "uri", "words"), WRONG)
def test_one_line_and_nothing_lost(
    stage: Stage, stayed: Check, options: list[str], uri: str, words: list[str]
) -> None:
    stage.start()
    done = migrate(*options, uri=uri)
    assert done.returncode == 1, done.stderr
    line = _one_line(done.stderr)
    for word in words:
        assert word.lower() in line
    stayed()
    assert stage.find("b") is None


def test_parallel_goes_with_post_copy_from_qemu_10_1_on(
    stage: Stage, request: pytest.FixtureRequest
) -> None:
    """Before it both together kill the guest."""
    stage.start()
    number = stage.connection("a").getVersion()
    done = migrate(*POSTCOPY, "--parallel")
    if number >= 10_001_000:
        assert done.returncode == 0, done.stderr
        request.getfixturevalue("moved")()
        return
    assert done.returncode == 1, done.stderr
    line = _one_line(done.stderr)
    found = f"qemu is {number // 1_000_000}.{number // 1000 % 1000}."
    for word in (found, RUNS, "10.1"):
        assert word in line
    request.getfixturevalue("stayed")()
    assert stage.find("b") is None


def test_domain_that_does_not_run(stage: Stage) -> None:
    stage.connection("a").defineXML(stage.xml())
    done = migrate(*POSTCOPY)
    assert done.returncode == 1
    assert "not running" in _one_line(done.stderr)
    assert "start it first" in done.stderr
    assert stage.find("b") is None
    with pytest.raises(postcopy.UsageError, match="not running"):
        postcopy.start(stage.find("a"), URI)


def test_domain_that_is_not_there(stage: Stage) -> None:
    done = migrate(*POSTCOPY, name="nobody")
    assert done.returncode == 1
    assert "nobody" in done.stderr and "Traceback" not in done.stderr


def test_guest_that_its_user_has_paused(stage: Stage) -> None:
    domain = stage.start()
    domain.suspend()
    done = migrate(*POSTCOPY)
    assert done.returncode == 1
    assert "paused" in _one_line(done.stderr)
    assert stage.active_on() == ["a"]
    assert domain.info()[0] == 3, "it was resumed"
    assert stage.verify("a").ok
    domain.resume()


USERFAULTFD = Path("/proc/sys/vm/unprivileged_userfaultfd")


@pytest.fixture
def forbidden(lab: Lab) -> Iterator[str]:
    """A host whose kernel refuses userfaultfd to QEMU, also on a machine whose owner allows it."""
    before = USERFAULTFD.read_text()
    if before.strip() != "0":
        USERFAULTFD.write_text("0")
    try:
        lab.add_host("c", unprivileged=True)
        yield "qemu+tcp://c/system"
        lab.remove_host("c")
    finally:
        if before.strip() != "0":
            USERFAULTFD.write_text(before)


@pytest.mark.parametrize("options", [[], ["--p2p"]])
def test_capability_refused_at_the_destination(
    forbidden: str, stage: Stage, stayed: Check, options: list[str]
) -> None:
    stage.start()
    done = migrate(*POSTCOPY, *options, uri=forbidden)
    assert done.returncode == 1
    line = _one_line(done.stderr)
    assert "destination" in line and "unprivileged_userfaultfd" in line
    stayed()
    assert stage.find("c") is None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"flags": 1 << 2}, "TUNNELLED"),
        ({"flags": 1 << 5}, "PAUSED"),
        ({"flags": 1 << 10}, "OFFLINE"),
        ({"policy": "sometimes"}, "unknown policy"),
        ({"policy": "never", "flags": 1 << 30}, "contradicts"),
    ],
)
def test_the_calls_refuse_before_anything_is_sent(
    stage: Stage, stayed: Check, wrong: dict[str, object], words: str
) -> None:
    domain = stage.start()
    with pytest.raises(postcopy.UsageError, match=words):
        postcopy.start(domain, URI, **wrong)  # type: ignore[arg-type]
    stayed()
