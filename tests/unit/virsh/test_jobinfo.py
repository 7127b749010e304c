from __future__ import annotations

from types import SimpleNamespace

import pytest

from libvirt_postcopy.errors import LibvirtError
from libvirt_postcopy.events import Half, Side
from libvirt_postcopy.virsh import jobinfo
from libvirt_postcopy.virsh.grammar import Globals
from libvirt_postcopy.virsh.jobinfo import rows


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the daemon and QEMU say."""
    said = SimpleNamespace(half=Half.WHOLE, side=None, requests=None, info=None)

    def query(dom: object) -> object:
        if said.info is None:
            raise LibvirtError("busy")
        return said.info

    def side(dom: object) -> object:
        if isinstance(said.side, Exception):
            raise said.side
        return said.side

    monkeypatch.setattr(jobinfo.calls, "half", lambda dom: said.half)
    monkeypatch.setattr(jobinfo.calls, "migration_side", side)
    monkeypatch.setattr(jobinfo.calls, "query_migration", query)
    monkeypatch.setattr(
        jobinfo.calls,
        "read_stats",
        lambda dom: SimpleNamespace(postcopy_requests=said.requests),
    )
    return said


@pytest.mark.parametrize(
    "half, side, phase, guest",
    [
        (Half.WHOLE, None, "no", "here"),
        (Half.WHOLE, Side.SOURCE, "no", "here"),
        (Half.MIGRATING, Side.DESTINATION, "stopped for the switch, or waiting for its memory", "on the source"),
        (Half.SPLIT, Side.SOURCE, "active",
         "split: it runs on the destination, the rest of its memory here; destroy neither half"),
        (Half.SPLIT_FAILED, Side.DESTINATION, "failed",
         "split: it runs here, the rest of its memory on the source; destroy neither half"),
        (Half.INACTIVE, None, "inactive", "not here"),
        (Half.WHOLE, LibvirtError("busy"), "no", "here"),
    ],
)  # fmt: skip
def test_place(
    host: SimpleNamespace, half: Half, side: object, phase: str, guest: str
) -> None:
    host.half, host.side = half, side
    assert list(rows(None, has_ended=False)) == [("Post-copy", phase), ("Guest", guest)]


def test_requests(host: SimpleNamespace) -> None:
    host.requests = 0
    assert ("Page requests", "0") in list(rows(None, has_ended=False))


@pytest.mark.parametrize(
    "info, text",
    [(None, "not known: QEMU cannot be asked"), ({}, "not counted"), ({"postcopy-blocktime": 0}, "0 ms"), ({"postcopy-blocktime": 12}, "12 ms")],
)  # fmt: skip
def test_blocktime_is_asked_for_only_after_the_end(
    host: SimpleNamespace, info: object, text: str
) -> None:
    host.info = info
    assert list(rows(None, has_ended=True))[-1] == ("Blocktime", text)
    assert "Blocktime" not in dict(rows(None, has_ended=False))


@pytest.mark.parametrize(
    "half, side",
    [(Half.SPLIT, Side.DESTINATION), (Half.MIGRATING, None), (Half.WHOLE, Side.SOURCE)],
)
def test_blocktime_of_a_migration_that_goes_on(
    host: SimpleNamespace, half: Half, side: Side | None
) -> None:
    host.half, host.side, host.info = half, side, {"postcopy-blocktime": 12}
    assert list(rows(None, has_ended=True))[-1] == ("Blocktime", "not known yet")


def test_virsh_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def ask(words: list[str], **how: object) -> tuple[int, bytes, bytes]:
        asked.append((words, how))
        return 1, b"", b"error: no\n"

    monkeypatch.setattr(jobinfo, "ask_virsh", ask)
    terminal = SimpleNamespace(print=lambda text: None, say=lambda line: None)
    options = Globals(connect="x:///", is_readonly=True)
    given = {"domain": "web1", "postcopy": True, "completed": True}
    assert jobinfo.run(given, options, terminal, None) == 1
    words = "-q --connect=x:/// --readonly domjobinfo --domain=web1 --completed"
    assert asked == [(words.split(), {"patience_s": None})]
