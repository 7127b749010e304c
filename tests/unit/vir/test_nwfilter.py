from __future__ import annotations

import pytest

from libvirt_postcopy.constants import ErrorNumber
from libvirt_postcopy.errors import LibvirtError, UsageError
from libvirt_postcopy.vir.nwfilter import Defined, define_keeping_uuid, with_uuid
from unit.fakes import OTHER_UUID, UUID, refused

PLAIN = "<filter name='web'><rule action='drop' direction='in'/></filter>"
OWN = f"<filter name='web'>\n  <!-- own -->\n  <uuid>{OTHER_UUID}</uuid>\n</filter>"


class Filter:
    def __init__(self, name: str, uuid: str) -> None:
        self._name, self._uuid = name, uuid

    def name(self) -> str:
        return self._name

    def UUIDString(self) -> str:
        return self._uuid


class Host:
    def __init__(self, *filters: Filter) -> None:
        self.filters = list(filters)
        self.defined: list[tuple[str, int]] = []
        self.error: Exception | None = None

    def listAllNWFilters(self, flags: int = 0) -> list[Filter]:
        return self.filters

    def nwfilterDefineXML(self, xmlDesc: str) -> Filter:
        return self.nwfilterDefineXMLFlags(xmlDesc, 0)

    def nwfilterDefineXMLFlags(self, xmlDesc: str, flags: int = 0) -> Filter:
        if self.error is not None:
            raise self.error
        self.defined.append((xmlDesc, flags))
        return Filter("web", xmlDesc.partition("<uuid>")[2][:36] or "made up")


@pytest.mark.parametrize("xml", [PLAIN, OWN])
def test_the_uuid_that_is_there_is_kept(xml: str) -> None:
    host = Host(Filter("other", OTHER_UUID), Filter("web", UUID))
    assert define_keeping_uuid(host, xml) == Defined("web", UUID, had=UUID)  # type: ignore[arg-type]
    [(sent, flags)] = host.defined
    assert sent.count("<uuid>") == 1 and OTHER_UUID not in sent and flags == 0


def test_a_new_filter_is_defined_as_it_is_written() -> None:
    host = Host(Filter("other", UUID))
    made = define_keeping_uuid(host, OWN, validate=True)  # type: ignore[arg-type]
    assert made == Defined("web", OTHER_UUID, had=None)
    assert host.defined == [(OWN, 1)]


def test_refusal_of_libvirt() -> None:
    host = Host()
    host.error = refused(ErrorNumber.VIR_ERR_OPERATION_FAILED, "no such chain")
    with pytest.raises(LibvirtError, match="no such chain"):
        define_keeping_uuid(host, PLAIN)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("xml", "made"),
    [
        ("<filter name='a'/>", "<filter name='a'><uuid>U</uuid></filter>"),
        ("<filter name='a'><uuid/></filter>", "<filter name='a'><uuid>U</uuid></filter>"),
        (
            "<filter name='a'><uuid>1</uuid><uuid>2</uuid></filter>",
            "<filter name='a'><uuid>U</uuid></filter>",
        ),
        (
            "<filter name='a'>\n  <!-- b -->\n</filter>",
            "<filter name='a'>\n  <uuid>U</uuid>\n  <!-- b -->\n</filter>",
        ),
    ],
)  # fmt: skip
def test_all_else_stays(xml: str, made: str) -> None:
    assert with_uuid(xml, "U").replace('"', "'") == made


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        ("<filter/>", "has no name"),
        ("<domain name='a'/>", "begins with <domain>"),
        ("<filter name='a'", "not the XML"),
        ('<!DOCTYPE f [<!ENTITY x SYSTEM "file:///etc/passwd">]><filter name="&x;"/>', "document type|not the XML"),
        ("<filter name='a'>" + " " * (11 << 20) + "</filter>", "larger than"),
    ],
)  # fmt: skip
def test_what_is_no_filter_is_not_sent(xml: str, words: str) -> None:
    host = Host()
    with pytest.raises(UsageError, match=words):
        define_keeping_uuid(host, xml)  # type: ignore[arg-type]
    assert host.defined == []
