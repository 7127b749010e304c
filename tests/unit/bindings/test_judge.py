"""A binding, a library or a header that is wrong: each is found, and the rest is left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import libvirt
import pytest

from libvirt_postcopy.bindings import call, check, judge
from libvirt_postcopy.bindings.binding import Binding
from libvirt_postcopy.bindings.call import CALLABLE
from libvirt_postcopy.bindings.check import disagreement, examine
from libvirt_postcopy.bindings.description import (
    Description,
    Name,
    beside,
    find_description,
    read_description,
)
from libvirt_postcopy.bindings.functions import SYMBOLS
from libvirt_postcopy.bindings.library import Library, loaded
from libvirt_postcopy.bindings.names import ours
from libvirt_postcopy.bindings.parameters import PARAMETERS
from libvirt_postcopy.bindings.report import Finding, Severity
from libvirt_postcopy.bindings.report import Path as Way
from libvirt_postcopy.bindings.symbols import (
    LIBVIRT,
    NEWEST_KNOWN,
    QEMU,
    version_number,
)
from unit.bindings.conftest import Copy

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
START = "virDomainMigrateStartPostCopy"


HERE = libvirt.getVersion()


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
    rows, findings = judge.symbols(libraries(), binding, HERE)
    assert findings == []
    assert [row.symbol for row in rows] == list(SYMBOLS)
    for row in rows:
        assert row.version == SYMBOLS[row.symbol].node
        assert row.path is Way.BINDING and row.binding == SYMBOLS[row.symbol].binding


@pytest.mark.parametrize("name", sorted(CALLABLE))
def test_binding_without_a_method_is_called_past(
    binding: Binding, module: Copy, name: str
) -> None:
    module.lose(*SYMBOLS[name].binding.split("."))
    rows, findings = judge.symbols(libraries(), binding, HERE)
    assert serious(findings) == [(WARNING, name)]
    assert "through cffi" in one(findings, name).evidence
    assert "libvirt-python" in one(findings, name).cure
    row = next(row for row in rows if row.symbol == name)
    assert (row.path, row.binding) == (Way.CFFI, None)


def test_binding_without_what_has_no_other_way(binding: Binding, module: Copy) -> None:
    module.lose("virDomain", "jobStats")
    rows, findings = judge.symbols(libraries(), binding, HERE)
    assert serious(findings) == [(ERROR, "virDomainGetJobStats")]
    row = next(row for row in rows if row.symbol == "virDomainGetJobStats")
    assert row.path is Way.NONE


def test_binding_whose_c_module_lacks_what_its_python_has(
    binding: Binding, module: Copy
) -> None:
    glue = {n: v for n, v in vars(module.libvirtmod).items() if n != START}
    module.libvirtmod = SimpleNamespace(**glue)
    _, findings = judge.symbols(libraries(), binding, HERE)
    assert serious(findings) == [(WARNING, START)]


def test_library_without_the_switch_leaves_the_monitor(binding: Binding) -> None:
    rows, findings = judge.symbols(without(START), binding, HERE)
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
    _, findings = judge.symbols(found, binding, HERE)
    assert one(findings, START).severity is ERROR


def test_library_that_is_too_old_for_something_dispensable(binding: Binding) -> None:
    rows, findings = judge.symbols(
        without("virDomainAbortJobFlags"), binding, 7_000_000
    )
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
    _, findings = judge.symbols(found, binding, HERE)
    assert "LIBVIRT_9.9.9" in one(findings, START).evidence


def test_library_that_is_there_twice() -> None:
    twice = Library(LIBVIRT, ("/usr/lib/libvirt.so.0", "/opt/libvirt.so.0"))
    for each in (twice, replace(twice, error="it cannot be read")):
        (found,) = judge.libraries([each])
        assert "loaded twice" in found.evidence
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
    module.getVersion = lambda: 9_000_000
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


@pytest.mark.parametrize(
    "soname, prefix", [(LIBVIRT, "LIBVIRT_"), (QEMU, "LIBVIRT_QEMU_")]
)
def test_binding_built_against_an_older_libvirt(
    binding: Binding, soname: str, prefix: str
) -> None:
    library = libraries()[soname]
    assert list(judge.age(binding, library)) == []
    shared = library.shared
    assert shared is not None
    defined = {**shared.defined, "virNew": f"{prefix}99.0.0", "x": "LIBVIRT_PRIVATE_99.9.0"}  # fmt: skip
    (found,) = judge.age(
        binding, replace(library, shared=replace(shared, defined=defined))
    )
    assert found.severity is NOTE and found.evidence.endswith("of 99.0.0")
    assert soname in found.evidence


def test_binding_that_cannot_be_loaded_with_a_library(binding: Binding) -> None:
    """Of a file that is only read: a loaded one has all that the binding calls."""
    library = libraries()[LIBVIRT]
    assert library.shared is not None
    old = {"virOld": "LIBVIRT_6.10.0"}
    (found,) = judge.age(
        binding, replace(library, shared=replace(library.shared, defined=old))
    )
    assert found.severity is ERROR and found.evidence.endswith("newer than 6.10.0")
    assert "--no-cache-dir" in found.cure


def test_age_that_nobody_tells(binding: Binding, module: Copy) -> None:
    library = libraries()[LIBVIRT]
    (found,) = judge.age(binding, replace(library, shared=None))
    assert found.severity is NOTE and "libvirt.so.0 does not tell" in found.evidence
    module.libvirtmod = SimpleNamespace()
    (found,) = judge.age(binding, library)
    assert "C module does not tell" in found.evidence
    assert list(judge.age(binding, Library(LIBVIRT, error="it is truncated"))) == []


def test_function_for_postcopy_that_only_the_library_has() -> None:
    library = libraries()[LIBVIRT]
    assert library.shared is not None
    private = {n for n in library.shared.defined if "Postcopy" in n}
    assert private, "libvirt has private ones, which are none of ours"
    assert list(judge.unknown_functions([library], HERE)) == []
    defined = {**library.shared.defined, "virDomainPausePostCopy": "LIBVIRT_9.0.0"}
    more = replace(library, shared=replace(library.shared, defined=defined))
    (found,) = judge.unknown_functions([more], NEWEST_KNOWN)
    assert (found.severity, found.what) == (WARNING, "virDomainPausePostCopy")
    (found,) = judge.unknown_functions([more], NEWEST_KNOWN + 1000)
    assert found.severity is NOTE, "a later libvirt may well have more"


# Types of parameters


def test_parameter_that_would_be_refused(
    binding: Binding, module: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    hints = {k: int(p.type) for k, p in PARAMETERS.items() if "zlib" not in k}
    monkeypatch.setattr(Binding, "hints", lambda self: hints)
    _, findings = judge.parameters(binding, 9_003_000)
    assert one(findings, "compression.zlib.level").severity is NOTE
    rows, findings = judge.parameters(binding, 9_004_000)
    found = one(findings, "compression.zlib.level")
    assert found.severity is ERROR and "ULLONG" in found.evidence
    assert len(findings) == 1
    row = next(r for r in rows if r.key == found.what)
    assert (row.expected, row.hint, row.passed) == ("INT", None, "ULLONG")
    assert row.path is Way.CFFI


def test_wrong_hint(binding: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    hints = {k: int(p.type) for k, p in PARAMETERS.items()}
    monkeypatch.setattr(Binding, "hints", lambda self: {**hints, "bandwidth": 2})
    rows, findings = judge.parameters(binding, HERE)
    assert serious(findings) == [(ERROR, "bandwidth")]
    assert next(r for r in rows if r.key == "bandwidth").hint == "UINT"


def test_type_that_is_right_by_luck(
    binding: Binding, module: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    hints = {k: int(p.type) for k, p in PARAMETERS.items() if "switchover" not in k}
    monkeypatch.setattr(Binding, "hints", lambda self: hints)
    (found,) = judge.parameters(binding, 12_008_000)[1]
    assert found.what == "bandwidth.avail.switchover"
    assert found.severity is NOTE and "guesses ULLONG" in found.evidence


def test_table_that_cannot_be_read(
    binding: Binding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Binding, "hints", lambda self: None)
    rows, findings = judge.parameters(binding, HERE)
    assert [each.severity for each in findings] == [NOTE]
    assert {row.hint for row in rows} == {None}


# libvirt's description

API = Path(__file__).parent / "api" / "libvirt-api.xml"
"""Of libvirt 12.8, cut down to what this package has."""

DESCRIBED = read_description(*beside(API))


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
        ("macros", "VIR_MIGRATE_PARAM_X_POSTCOPY", {"value": "x"}, WARNING, "has not"),
        ("macros", "VIR_DOMAIN_JOB_POSTCOPY_X", {"value": "x"}, WARNING, "has not"),
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
    report = examine(binding, description=API)
    assert report.is_ok, str(report)
    assert serious(report.findings) == []
    assert report.path(START) is Way.BINDING and report.path("virNoSuch") is Way.NONE
    assert report.newest and report.files[0][1].startswith("/")


def test_description_beside_another(binding: Binding, tmp_path: Path) -> None:
    """A copy of libvirt-api.xml alone says nothing of the functions for QEMU."""
    copy = tmp_path / "libvirt-api.xml"
    copy.write_bytes(API.read_bytes())
    assert serious(examine(binding, description=copy).findings) == []
    qemu = tmp_path / "libvirt-qemu-api.xml"
    qemu.write_bytes(b"<api name='libvirt-qemu'><symbols/></api>")
    found = {f.what for f in examine(binding, description=copy).errors}
    assert found == {each.name for each in SYMBOLS.values() if each.library == QEMU}


def test_description_of_something_else(binding: Binding) -> None:
    other = API.with_name("libvirt-qemu-api.xml")
    (found,) = serious(examine(binding, description=other).findings)
    assert found == (WARNING, "libvirt-api.xml")


@pytest.mark.programs
def test_description_is_where_pkg_config_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "pkg-config"
    program.write_text(f"#!/bin/sh\n[ $1 = --variable=libvirt_api ] && echo {API}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert find_description() == API
    program.write_text("#!/bin/sh\nexit 1\n")
    assert find_description().parent == Path("/usr/share/libvirt/api")


def test_both_libraries_are_looked_at_for_all(
    binding: Binding, monkeypatch: pytest.MonkeyPatch
) -> None:
    def newer(soname: str, *, is_looked_up: bool) -> Library:
        library = loaded(soname, is_looked_up=is_looked_up)
        assert library.shared is not None
        prefix = "LIBVIRT_QEMU" if soname == QEMU else "LIBVIRT"
        more = {f"vir{prefix}PostCopy": f"{prefix}_99.0.0"}
        defined = {**library.shared.defined, **more}
        return replace(library, shared=replace(library.shared, defined=defined))

    monkeypatch.setattr(check, "loaded", newer)
    found = [f"{f.what} {f.evidence}" for f in examine(binding).findings]
    for soname, name in ((LIBVIRT, "virLIBVIRTPostCopy"), (QEMU, "virLIBVIRT_QEMUPostCopy")):  # fmt: skip
        assert any(f"{soname} has {name}()" in text for text in found)
        assert any(f"built against an older {soname}" in text for text in found)


def test_one_line_for_the_preflight(
    binding: Binding, module: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert disagreement(binding) == ""
    monkeypatch.setattr(Binding, "hints", lambda self: {})
    assert any(each.what in PARAMETERS for each in examine(binding).errors)
    assert disagreement(binding) == "", "they are passed right"
    with monkeypatch.context() as patch:
        patch.setattr(call, "_has_cffi", lambda: False)
        assert "pip install cffi" in disagreement(binding)
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


def test_file_is_judged_by_its_own_release(binding: Binding, module: Copy) -> None:
    """Not by that of the libvirt that is loaded."""
    file = dict(examine(binding).files)[LIBVIRT]
    module.getVersion = lambda: 99_000_000
    assert examine(binding).libvirt == "99.0.0"
    told = examine(binding, library=file).libvirt
    assert version_number(told) // 1000 == HERE // 1000


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
