"""A binding, a library or a header that is wrong: each is found, and the rest is left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import pytest

from libvirt_postcopy.bindings import judge
from libvirt_postcopy.bindings.binding import Binding
from libvirt_postcopy.bindings.call import CALLABLE
from libvirt_postcopy.bindings.check import disagreement, examine
from libvirt_postcopy.bindings.description import (
    DESCRIPTION,
    QEMU_DESCRIPTION,
    Description,
    Name,
    read_description,
)
from libvirt_postcopy.bindings.library import Library, loaded
from libvirt_postcopy.bindings.names import ours
from libvirt_postcopy.bindings.parameters import PARAMETERS
from libvirt_postcopy.bindings.report import Finding, Severity
from libvirt_postcopy.bindings.report import Path as Way
from libvirt_postcopy.bindings.symbols import (
    LIBVIRT,
    QEMU,
    SYMBOLS,
    version_number,
)
from libvirt_postcopy.vir import probe, protocols
from unit.bindings.conftest import Copy

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
START = "virDomainMigrateStartPostCopy"


def serious(findings: object) -> list[tuple[Severity, str]]:
    return [
        (each.severity, each.what)
        for each in findings  # type: ignore[attr-defined]
        if each.severity is not NOTE
    ]


def one(findings: object, what: str) -> Finding:
    (found,) = (each for each in findings if each.what == what)  # type: ignore[attr-defined]
    return found


def libraries() -> dict[str, Library]:
    return {soname: loaded(soname) for soname in (LIBVIRT, QEMU)}


def without(name: str) -> dict[str, Library]:
    """The libraries, one symbol less."""
    found = libraries()
    of = SYMBOLS[name].library
    has = found[of].has
    assert has is not None
    return {**found, of: replace(found[of], has=lambda n: n != name and has(n))}


# Functions


def test_all_is_well_here(binding: Binding) -> None:
    rows, findings = judge.symbols(libraries(), binding)
    assert findings == []
    assert [row.symbol for row in rows] == list(SYMBOLS)
    for row in rows:
        assert row.version == SYMBOLS[row.symbol].node
        assert row.path is Way.BINDING and row.binding == SYMBOLS[row.symbol].binding


def test_every_call_of_the_adapters_is_looked_at() -> None:
    listed = {symbol.binding for symbol in SYMBOLS.values()}
    for name in vars(protocols.Connection):
        if not name.startswith("_"):
            assert f"virConnect.{name}" in listed
    for name in vars(protocols.Domain):
        if not name.startswith("_") and name != "connect":  # asks no daemon
            assert f"virDomain.{name}" in listed
    assert hasattr(probe, "ask_qemu") and "qemuMonitorCommand" in listed


@pytest.mark.parametrize("name", sorted(CALLABLE))
def test_binding_without_a_method_is_called_past(
    binding: Binding, module: Copy, name: str
) -> None:
    module.lose(*SYMBOLS[name].binding.split("."))
    rows, findings = judge.symbols(libraries(), binding)
    assert serious(findings) == [(WARNING, name)]
    assert "through cffi" in one(findings, name).evidence
    assert "libvirt-python" in one(findings, name).cure
    row = next(row for row in rows if row.symbol == name)
    assert (row.path, row.binding) == (Way.CFFI, None)


def test_binding_without_what_has_no_other_way(binding: Binding, module: Copy) -> None:
    module.lose("virDomain", "jobStats")
    rows, findings = judge.symbols(libraries(), binding)
    assert serious(findings) == [(ERROR, "virDomainGetJobStats")]
    row = next(row for row in rows if row.symbol == "virDomainGetJobStats")
    assert row.path is Way.NONE


def test_binding_whose_c_module_lacks_what_its_python_has(
    binding: Binding, module: Copy
) -> None:
    glue = {n: v for n, v in vars(module.libvirtmod).items() if n != START}
    module.libvirtmod = SimpleNamespace(**glue)
    _, findings = judge.symbols(libraries(), binding)
    assert serious(findings) == [(WARNING, START)]


def test_library_without_the_switch_leaves_the_monitor(binding: Binding) -> None:
    rows, findings = judge.symbols(without(START), binding)
    assert serious(findings) == [(WARNING, START)]
    assert "monitor" in one(findings, START).evidence
    row = next(row for row in rows if row.symbol == START)
    assert (row.path, row.version) == (Way.PASSTHROUGH, None)


def test_neither_switch_nor_monitor(binding: Binding) -> None:
    gone = {START, "virDomainQemuMonitorCommand"}
    found = {
        soname: replace(each, has=lambda n: n not in gone)
        for soname, each in libraries().items()
    }
    _, findings = judge.symbols(found, binding)
    assert one(findings, START).severity is ERROR


def test_library_that_is_too_old_for_something_dispensable(
    binding: Binding, module: Copy
) -> None:
    module.getVersion = lambda: 7_000_000
    rows, findings = judge.symbols(without("virDomainAbortJobFlags"), binding)
    found = one(findings, "virDomainAbortJobFlags")
    assert (found.severity, found.cure) == (NOTE, "libvirt >= 8.5.0 has it")
    assert "recovery" in found.evidence
    assert next(r for r in rows if r.symbol == found.what).path is Way.NONE


def test_another_version_node(binding: Binding) -> None:
    found = libraries()
    shared = found[LIBVIRT].shared
    assert shared is not None
    defined = {**shared.defined, START: "LIBVIRT_9.9.9"}
    found[LIBVIRT] = replace(found[LIBVIRT], shared=replace(shared, defined=defined))
    _, findings = judge.symbols(found, binding)
    assert "LIBVIRT_9.9.9" in one(findings, START).evidence


def test_library_that_is_there_twice() -> None:
    twice = Library(LIBVIRT, ("/usr/lib/libvirt.so.0", "/opt/libvirt.so.0"))
    (found,) = judge.libraries([twice])
    assert found.severity is ERROR and "/opt/libvirt.so.0" in found.evidence


# Constants


def test_changed_constant(binding: Binding, module: Copy) -> None:
    module.VIR_MIGRATE_POSTCOPY = 1 << 16
    found = list(judge.against_binding(binding))
    assert (ERROR, "VIR_MIGRATE_POSTCOPY") in serious(found)
    assert "65536" in one(found, "VIR_MIGRATE_POSTCOPY").evidence


def test_changed_key(binding: Binding, module: Copy) -> None:
    module.VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY = "bandwidth.post"
    found = list(judge.against_binding(binding))
    assert (ERROR, "VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY") in serious(found)


def test_bit_of_ours_that_libvirt_uses(binding: Binding, module: Copy) -> None:
    module.VIR_MIGRATE_WORMHOLE = 1 << 30
    found = serious(judge.against_binding(binding))
    assert found == [(ERROR, "VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY")]


@pytest.mark.parametrize("owner", ["", "virDomain"])
def test_name_for_postcopy_that_we_lack(
    binding: Binding, module: Copy, owner: str
) -> None:
    if owner:
        module.virDomain.migratePausePostCopy = None  # type: ignore[attr-defined]
    else:
        module.VIR_DOMAIN_RUNNING_POSTCOPY_SLOW = 99
    (found,) = (f for f in judge.against_binding(binding) if f.severity is not NOTE)
    assert found.severity is WARNING and "package has not" in found.evidence


def test_constants_that_the_binding_lacks_are_no_finding(
    binding: Binding, module: Copy
) -> None:
    del module.VIR_MIGRATE_POSTCOPY_RESUME, module.VIR_MIGRATE_ZEROCOPY
    assert serious(judge.against_binding(binding)) == []


def test_binding_built_against_an_older_libvirt(binding: Binding) -> None:
    library = libraries()[LIBVIRT]
    assert list(judge.age(binding, library)) == []
    shared = library.shared
    assert shared is not None
    defined = {**shared.defined, "virNew": "LIBVIRT_99.0.0", "x": "LIBVIRT_PRIVATE_99.9.0"}  # fmt: skip
    (found,) = judge.age(
        binding, replace(library, shared=replace(shared, defined=defined))
    )
    assert found.severity is NOTE and found.evidence.endswith("of 99.0.0")
    assert list(judge.age(binding, replace(library, shared=None))) == []


# Types of parameters


def test_parameter_that_would_be_refused(
    binding: Binding, module: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    hints = {k: int(p.type) for k, p in PARAMETERS.items() if "zlib" not in k}
    monkeypatch.setattr(Binding, "hints", lambda self: hints)
    module.getVersion = lambda: 9_003_000
    _, findings = judge.parameters(binding)
    assert one(findings, "compression.zlib.level").severity is NOTE
    module.getVersion = lambda: 9_004_000
    rows, findings = judge.parameters(binding)
    found = one(findings, "compression.zlib.level")
    assert found.severity is ERROR and "ULLONG" in found.evidence
    assert len(findings) == 1
    row = next(r for r in rows if r.key == found.what)
    assert (row.expected, row.hint, row.passed) == ("INT", None, "ULLONG")
    assert row.path is Way.CFFI


def test_wrong_hint(binding: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    hints = {k: int(p.type) for k, p in PARAMETERS.items()}
    monkeypatch.setattr(Binding, "hints", lambda self: {**hints, "bandwidth": 2})
    rows, findings = judge.parameters(binding)
    assert serious(findings) == [(ERROR, "bandwidth")]
    assert next(r for r in rows if r.key == "bandwidth").hint == "UINT"


def test_type_that_is_right_by_luck(
    binding: Binding, module: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    hints = {k: int(p.type) for k, p in PARAMETERS.items() if "switchover" not in k}
    monkeypatch.setattr(Binding, "hints", lambda self: hints)
    module.getVersion = lambda: 12_008_000
    (found,) = judge.parameters(binding)[1]
    assert found.what == "bandwidth.avail.switchover"
    assert found.severity is NOTE and "guesses ULLONG" in found.evidence


def test_table_that_cannot_be_read(
    binding: Binding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Binding, "hints", lambda self: None)
    rows, findings = judge.parameters(binding)
    assert [each.severity for each in findings] == [NOTE]
    assert {row.hint for row in rows} == {None}


# libvirt's description

DESCRIBED = read_description(DESCRIPTION, QEMU_DESCRIPTION)


def described(kind: str, name: str, change: Mapping[str, object] | None) -> Description:
    """The description with one name changed, added or, with None, left out."""
    names: dict[str, Name] = dict(getattr(DESCRIBED, kind))
    if change is None:
        del names[name]
    else:
        names[name] = replace(names.get(name, Name()), **change)  # type: ignore[arg-type]
    return replace(DESCRIBED, **{kind: MappingProxyType(names)})


def test_description_of_this_libvirt_agrees() -> None:
    version = DESCRIBED.version
    assert version > 8_000_000
    assert list(judge.against_description(DESCRIBED, version)) == []
    typed = [p for p in PARAMETERS.values() if version_number(p.since) <= version]
    told = [p for p in typed if DESCRIBED.macros[p.name].kind == p.type.word]
    assert len(told) > 15, "the description says the types of nearly all"


@pytest.mark.parametrize(
    "kind, name, change, severity, text",
    [
        ("constants", "VIR_MIGRATE_POSTCOPY", {"value": 4}, ERROR, "says 4"),
        ("constants", "VIR_MIGRATE_POSTCOPY", None, ERROR, "no such name"),
        ("constants", "VIR_MIGRATE_POSTCOPY", {"since": "1.3.4"}, WARNING, "1.3.4"),
        ("constants", "VIR_DOMAIN_X_POSTCOPY_Y", {"value": 1}, WARNING, "has not"),
        ("macros", "VIR_MIGRATE_PARAM_BANDWIDTH", {"kind": "INT"}, ERROR, "'INT'"),
        ("macros", "VIR_MIGRATE_PARAM_DISKS_PORT", {"value": "port"}, ERROR, "port"),
        ("macros", "VIR_MIGRATE_PARAM_WARP", {"value": "warp"}, WARNING, "warp"),
        ("functions", START, {"since": "1.4.0"}, WARNING, "1.4.0"),
        ("functions", START, None, ERROR, "no such name"),
        ("functions", "virDomainPostCopyAgain", {}, WARNING, "has not"),
    ],
)
def test_description_that_differs(
    kind: str,
    name: str,
    change: Mapping[str, object] | None,
    severity: Severity,
    text: str,
) -> None:
    found = judge.against_description(described(kind, name, change), DESCRIBED.version)
    (each,) = found
    assert (each.what, each.severity) == (name, severity)
    assert text in each.evidence


def test_bit_of_ours_in_the_description() -> None:
    flag = {"value": 1 << 30, "kind": "virDomainMigrateFlags"}
    (found,) = judge.against_description(described("constants", "VIR_X", flag), 9_000_000)  # fmt: skip
    assert found.what == "VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY"


def test_names_newer_than_the_description_are_not_missed() -> None:
    newest = described("constants", "VIR_MIGRATE_POSTCOPY_RESUME", None)
    found = [
        each.what
        for each in judge.against_description(newest, 8_004_000)
        if "no such name" in each.evidence
    ]
    assert found == []


def test_releases_are_read_from_the_comments() -> None:
    since = ours().since
    assert since["VIR_MIGRATE_POSTCOPY"] == "1.3.3"
    assert since["VIR_DOMAIN_ABORT_JOB_POSTCOPY"] == "8.5.0"
    assert len(since) > len(PARAMETERS) + 10


# All together


def test_whole_check_is_well_here(binding: Binding) -> None:
    report = examine(binding)
    assert report.is_ok, str(report)
    assert serious(report.findings) == []
    assert report.path(START) is Way.BINDING and report.path("virNoSuch") is Way.NONE
    assert report.newest and report.files[0][1].startswith("/")


def test_one_line_for_the_preflight(
    binding: Binding, module: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert disagreement(binding) == ""
    monkeypatch.setattr(Binding, "hints", lambda self: {})
    assert any(each.what in PARAMETERS for each in examine(binding).errors)
    assert disagreement(binding) == "", "they are passed right"
    module.VIR_MIGRATE_POSTCOPY = 1
    module.lose("virDomain", "jobStats")
    line = disagreement(binding)
    assert line.startswith("virDomainGetJobStats: ") and line.endswith(", and 1 more")


def test_missing_symbol_in_a_file(binding: Binding, tmp_path: Path) -> None:
    content = Path(dict(examine(binding).files)[LIBVIRT]).read_bytes()
    other = START[:-1] + "X"
    assert START.encode() + b"\0" in content
    path = tmp_path / LIBVIRT
    path.write_bytes(content.replace(START.encode() + b"\0", other.encode() + b"\0"))
    report = examine(binding, library=str(path))
    assert serious(report.findings) == [(WARNING, START)]
    assert report.path(START) is Way.PASSTHROUGH


def test_library_that_is_not_libvirt(binding: Binding) -> None:
    files = dict(examine(binding).files)
    report = examine(binding, library=files[QEMU])
    assert one(report.errors, LIBVIRT).evidence.endswith(f"it calls itself '{QEMU}'")
    assert not report.is_ok


def test_truncated_library(binding: Binding, tmp_path: Path) -> None:
    content = Path(dict(examine(binding).files)[LIBVIRT]).read_bytes()
    path = tmp_path / LIBVIRT
    path.write_bytes(content[: len(content) // 2])
    report = examine(binding, library=str(path))
    assert "truncated" in one(report.errors, LIBVIRT).evidence
    assert "reinstall" in one(report.errors, LIBVIRT).cure


def test_description_that_is_none(binding: Binding, tmp_path: Path) -> None:
    path = tmp_path / "api.xml"
    for content in ("<domain/>", "<api", ""):
        path.write_text(content)
        found = one(examine(binding, description=path).findings, "libvirt-api.xml")
        assert found.severity is WARNING and "api.xml" in found.evidence


def test_description_brings_in_no_other_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("VIR_TYPED_PARAM_INT")
    path = tmp_path / "api.xml"
    text = (
        '<!DOCTYPE api [<!ENTITY x SYSTEM "file://{}">]><api name="l"><symbols>'
        "<macro name='VIR_X' string='x'><info>as &x;</info></macro></symbols></api>"
    )
    path.write_text(text.format(secret))
    assert read_description(path).macros["VIR_X"] == Name("x")
    path.write_text(text.replace("&x;", secret.read_text()).format(secret))
    assert read_description(path).macros["VIR_X"] == Name("x", kind="INT")
