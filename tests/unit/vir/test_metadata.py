from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lxml import etree

from libvirt_postcopy.errors import LibvirtError, UsageError
from libvirt_postcopy.policy import parse
from libvirt_postcopy.vir.metadata import NAMESPACE, read_policy, write_policy
from unit.fakes import NO_ANSWER, RUNNING, SHUT_OFF, FakeDomain

SCHEMA = Path(__file__).parents[3] / "schemas" / "postcopy-metadata.rng"


class Domain(FakeDomain):
    """Keeps an element as libvirt does: in a namespace, with a prefix."""

    def __init__(self, *, is_defined: bool = False, state: tuple[int, int] = RUNNING) -> None:  # fmt: skip
        super().__init__(state=state)
        self.is_defined = is_defined
        self.element: str | None = None
        self.flags = 0
        self.doctype = ""

    def isPersistent(self) -> int:
        return int(self.is_defined)

    def XMLDesc(self, flags: int = 0) -> str:
        assert flags == 0, "the running one's if it runs"
        if "XMLDesc" in self.errors:
            raise self.errors["XMLDesc"]
        element = re.sub("(</?)policy", r"\1p:policy", self.element or "")
        others = '<policy xmlns="urn:other">never</policy><policy>never</policy>'
        return (
            f"{self.doctype}<domain><name>web1</name><metadata xmlns:p='{NAMESPACE}'>"
            f"{others}{element}</metadata></domain>"
        )

    def setMetadata(self, type: int, metadata: str | None, key: str, uri: str, flags: int) -> int:  # fmt: skip
        assert (type, uri) == (2, NAMESPACE) and key
        self.element, self.flags = metadata, flags
        return 0


@pytest.mark.parametrize(
    ("is_defined", "state", "flags"),
    [(False, RUNNING, 1), (True, RUNNING, 3), (True, SHUT_OFF, 2)],
)
def test_it_is_kept_wherever_the_domain_is(
    is_defined: bool, state: Any, flags: int
) -> None:
    dom = Domain(is_defined=is_defined, state=state)
    policy = parse("after-precopy:2|after:5m")
    write_policy(dom, policy)
    assert dom.flags == flags
    assert str(read_policy(dom)) == str(policy)
    write_policy(dom, None)
    assert read_policy(dom) is None


def test_schema_takes_what_is_written() -> None:
    schema = etree.RelaxNG(etree.parse(str(SCHEMA)))
    dom = Domain()
    write_policy(dom, parse("after-precopy&after:1s"))
    assert dom.element is not None
    stored = dom.element.replace("<policy", f'<policy xmlns="{NAMESPACE}"')
    assert schema.validate(etree.fromstring(stored)), schema.error_log
    for wrong in ("<policy/>", "<policy>never</policy>"):
        assert not schema.validate(etree.fromstring(wrong))
    assert not schema.validate(
        etree.fromstring(f'<policy xmlns="{NAMESPACE}"> </policy>')
    )


@pytest.mark.parametrize(
    "element",
    [
        "<policy>whenever</policy>",
        "<policy/>",
        "<policy",
        "<policy>&x;</policy>",
        "<policy>" + "a" * 100_000 + "</policy>",
    ],
)
def test_what_is_no_policy(element: str) -> None:
    dom = Domain()
    dom.element = element
    dom.doctype = '<!DOCTYPE p [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    with pytest.raises(UsageError, match="metadata cannot be read.*--unset") as caught:
        read_policy(dom)
    assert len(str(caught.value)) < 1500


def test_daemon_that_does_not_answer() -> None:
    dom = Domain()
    dom.errors["XMLDesc"] = NO_ANSWER
    with pytest.raises(LibvirtError):
        read_policy(dom)


def test_domain_without_metadata_has_none() -> None:
    assert read_policy(FakeDomain()) is None


def test_nothing_is_printed_where_there_is_none(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """libvirt's own handler of errors writes past Python."""
    connection = libvirt.open("test:///default")
    dom = connection.lookupByName("test")
    assert read_policy(dom) is None
    dom.setMetadata(2, "<policy>after:5m</policy>", "postcopy", NAMESPACE, 0)
    assert str(read_policy(dom)) == "after:5m"
    assert capfd.readouterr() == ("", "")
