"""With the compiler and libvirt's headers that are installed here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import libvirt
import pytest

from libvirt_postcopy.bindings import compiled, toolchain
from libvirt_postcopy.bindings.binding import Binding
from libvirt_postcopy.bindings.compiled import calls, check_compiled, questions
from libvirt_postcopy.bindings.functions import SYMBOLS
from libvirt_postcopy.bindings.names import ours
from libvirt_postcopy.bindings.report import Finding, Severity
from libvirt_postcopy.bindings.symbols import TYPES, version_number
from libvirt_postcopy.bindings.toolchain import (
    CannotCompile,
    Headers,
    Source,
    WrongSource,
    build,
    make,
    read_headers,
)
from unit.bindings.conftest import Copy

START = "virDomainMigrateStartPostCopy"


@pytest.fixture(scope="module")
def headers() -> Headers:
    return read_headers()


def findings(binding: Binding) -> list[Finding]:
    done, found = check_compiled(binding)
    assert done.startswith("headers of libvirt "), done
    return [each for each in found if each.severity is not Severity.NOTE]


def test_headers_agree(binding: Binding) -> None:
    assert findings(binding) == []


def test_everything_was_asked(headers: Headers) -> None:
    asked = set(dir(build(questions(headers)).lib))
    assert headers.version // 1000 == libvirt.getVersion() // 1000
    since = ours().since
    for name in (*ours().numbers, *ours().strings):
        is_due = version_number(since.get(name, "0.0.0")) <= headers.version
        assert (name in asked) is is_due, name
    for name, symbol in SYMBOLS.items():
        is_due = version_number(symbol.since) <= headers.version
        assert (f"postcopy_same_{name}" in asked) is is_due, name
    for field in ("field", "type", "value__i", "value__s"):
        assert f"postcopy_at_virTypedParameter__{field}" in asked
    places = {each for each in asked if each.startswith("postcopy_at_virDomainJobInfo")}
    assert len(places) == 12


def test_compiled_module_calls_libvirt(
    headers: Headers, dom: libvirt.virDomain
) -> None:
    """The calls that the compiler has checked are real ones."""
    built: Any = build(calls(headers))
    ffi, lib = built.ffi, built.lib
    domain = ffi.cast("virDomainPtr", dom.c_pointer())
    uuid = ffi.new("char[37]")
    assert lib.virDomainGetUUIDString(domain, uuid) == 0
    assert ffi.string(uuid).decode() == dom.UUIDString()
    assert lib.virDomainIsActive(domain) == 1
    assert lib.virDomainMigrateStartPostCopy(domain, 0) == -1
    params = ffi.new("virTypedParameter[1]")
    params[0].field = ffi.string(lib.VIR_MIGRATE_PARAM_BANDWIDTH)
    params[0].type = lib.VIR_TYPED_PARAM_ULLONG
    params[0].value.ul = 5
    there = ffi.cast("virConnectPtr", dom.connect().c_pointer())
    assert lib.virDomainMigrate3(domain, there, params, 1, 1) == ffi.NULL


def with_numbers(changes: Mapping[str, int]) -> Any:
    changed = replace(ours(), numbers=MappingProxyType({**ours().numbers, **changes}))
    return lambda: changed


def without(kind: str, name: str) -> Any:
    names = dict(getattr(ours(), kind))
    del names[name]
    fewer = replace(ours(), **{kind: MappingProxyType(names)})
    return lambda: fewer


def test_number_of_ours_that_is_wrong(
    binding: Binding, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = with_numbers({"VIR_MIGRATE_POSTCOPY": 1 << 16, "VIR_NO_SUCH": 1})
    monkeypatch.setattr(compiled, "ours", wrong)
    found = {each.what: each for each in findings(binding)}
    assert set(found) == {"VIR_MIGRATE_POSTCOPY", "VIR_NO_SUCH"}
    assert "says 32768, this package 65536" in found["VIR_MIGRATE_POSTCOPY"].evidence
    assert "no such name" in found["VIR_NO_SUCH"].evidence


def test_number_of_the_binding_that_is_wrong(binding: Binding, module: Copy) -> None:
    module.VIR_MIGRATE_POSTCOPY = 1 << 16
    (found,) = findings(binding)
    assert found.severity is Severity.ERROR
    assert "says 32768, libvirt-python 65536" in found.evidence


@pytest.mark.parametrize(
    "kind, name, told",
    [
        ("numbers", "VIR_DOMAIN_RUNNING_POSTCOPY", "(10)"),
        ("strings", "VIR_MIGRATE_PARAM_DISKS_PORT", '("disks_port")'),
        ("strings", "VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY", '("bandwidth.postcopy")'),
        ("strings", "VIR_DOMAIN_JOB_MEMORY_POSTCOPY_REQS", "postcopy_requests"),
    ],
)
def test_name_for_postcopy_that_we_lack(
    binding: Binding,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    name: str,
    told: str,
) -> None:
    monkeypatch.setattr(compiled, "ours", without(kind, name))
    (found,) = findings(binding)
    assert found.severity is Severity.WARNING
    assert found.what == name and told in found.evidence


def test_function_for_postcopy_that_we_lack(
    binding: Binding, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = {name: each for name, each in SYMBOLS.items() if name != START}
    monkeypatch.setattr(compiled, "SYMBOLS", fewer)
    (found,) = findings(binding)
    assert (found.what, found.severity) == (START, Severity.WARNING)


def test_bit_of_ours_in_the_headers(
    binding: Binding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "CLIENT_SIDE_FLAGS", 1 << 16)
    (found,) = findings(binding)
    assert "VIR_MIGRATE_TLS" in found.evidence


@pytest.mark.parametrize(
    "prototype",
    [
        f"int {START}(virDomainPtr domain, unsigned long flags)",
        f"long {START}(virDomainPtr domain, unsigned int flags)",
        f"int {START}(virDomainPtr domain)",
        f"int {START}(virDomainPtr domain, unsigned int flags, int more)",
        f"int {START}(virConnectPtr domain, unsigned int flags)",
    ],
)
def test_prototype_that_is_wrong(
    binding: Binding, monkeypatch: pytest.MonkeyPatch, prototype: str
) -> None:
    wrong = {**SYMBOLS, START: replace(SYMBOLS[START], prototype=prototype)}
    monkeypatch.setattr(compiled, "SYMBOLS", wrong)
    (found,) = findings(binding)
    assert (found.what, found.severity) == (START, Severity.ERROR)
    assert prototype in found.evidence


@pytest.mark.parametrize(
    "prototype",
    [
        f"int {START}(virDomainPrt domain, unsigned int flags)",
        f"int {START}(virDomainPtr domain, unsigned int flags",
    ],
)
def test_prototype_that_is_no_c(
    binding: Binding, monkeypatch: pytest.MonkeyPatch, prototype: str
) -> None:
    """The compiler works, so it is not the compiler that is missing."""
    wrong = {**SYMBOLS, START: replace(SYMBOLS[START], prototype=prototype)}
    monkeypatch.setattr(compiled, "SYMBOLS", wrong)
    (found,) = findings(binding)
    assert found.severity is Severity.ERROR
    assert START in found.evidence and "error: expected" in found.evidence


@pytest.mark.parametrize(
    "before, after, what, evidence",
    [
        ("field[80]", "field[64]", "virTypedParameter", "says 96 bytes"),
        ("field[80]", "field[64]", "virTypedParameter.type", "says byte 80"),
        ("int type;\n    union", "long long type;\n    union", "virTypedParameter.type", "long long"),
        ("unsigned int ui;", "int ui;", "virTypedParameter.value.ui", "otherwise than: int"),
        ("    unsigned long long fileRemaining;\n", "", "virDomainJobInfo", "says 96 bytes"),
        ("int type;\n    union", "int type;\n    int more;\n    union", "headers", "no member named 'more'"),
        ("field[80];", "field[80", "headers", "cffi: cannot parse"),
    ],
)  # fmt: skip
def test_structure_that_is_laid_out_otherwise(
    binding: Binding,
    monkeypatch: pytest.MonkeyPatch,
    before: str,
    after: str,
    what: str,
    evidence: str,
) -> None:
    assert before in TYPES
    monkeypatch.setattr(compiled, "TYPES", TYPES.replace(before, after, 1))
    found = findings(binding)
    assert {each.severity for each in found} == {Severity.ERROR}
    (each,) = (
        each for each in found if each.what == what and evidence in each.evidence
    )
    assert "report it" in each.cure


def test_call_that_cannot_be_made(
    binding: Binding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first module does not see, the second is refused for."""
    monkeypatch.setattr(compiled, "_functions_differ", lambda lib, headers: ())
    prototype = f"int {START}(virConnectPtr domain, unsigned int flags)"
    wrong = {**SYMBOLS, START: replace(SYMBOLS[START], prototype=prototype)}
    monkeypatch.setattr(compiled, "SYMBOLS", wrong)
    (found,) = findings(binding)
    assert found.severity is Severity.ERROR
    assert START in found.evidence and "pointer type" in found.evidence


def test_no_compiler(
    binding: Binding, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done, found = check_compiled(binding)
    assert done == "not asked: there is no C compiler (install gcc)" and found == []


def test_no_headers(binding: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "INCLUDES", "#include <libvirt/none.h>\n")
    done, found = check_compiled(binding)
    assert "none.h" in done and "install libvirt-dev" in done and found == []


def test_no_python_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths = {"include": str(tmp_path), "platinclude": str(tmp_path)}
    monkeypatch.setattr(toolchain.sysconfig, "get_paths", lambda: paths)
    with pytest.raises(CannotCompile, match="install python3-dev"):
        make(Source("_x", "int x;"))


def test_compiler_that_fails(binding: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is given: that is not for our names to answer for."""
    monkeypatch.setenv("CFLAGS", "-Dint=void*")
    done, found = check_compiled(binding)
    assert done.startswith("not asked: ") and "error" in done and found == []


@pytest.mark.parametrize("name", ["CC", "CFLAGS"])
def test_words_that_are_none(
    binding: Binding, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "gcc '")
    done, found = check_compiled(binding)
    assert done == f"not asked: {name}: No closing quotation" and found == []


def test_no_place_for_what_is_compiled(
    binding: Binding, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(toolchain.tempfile, "tempdir", str(tmp_path / "none"))
    done, found = check_compiled(binding)
    assert done == "not asked: No such file or directory (set TMPDIR)" and found == []


NOEXEC = f"""
mount -t tmpfs -o noexec tmpfs "$1"
TMPDIR=$1 {Path(sys.executable).with_name("libvirt-postcopy")} bindings
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_place_where_nothing_may_be_run(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", NOEXEC, "sh", tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    (line,) = (x for x in done.stdout.splitlines() if x.startswith("compiler: "))
    assert line.startswith("compiler: not asked: ")
    assert line.endswith("(set TMPDIR to a folder that is not mounted noexec)")


def test_source_that_is_wrong_is_told_apart() -> None:
    with pytest.raises(WrongSource, match="error: .*no_such_thing"):
        make(Source("_x", "static const int x;", "enum { x = no_such_thing };"))


def test_objection_is_the_compilers_own_line() -> None:
    """Not the first that has the word, such as one about virterror.h."""
    text = "#include <libvirt/virterror.h>\n#warning error\nenum { x = none };"
    with pytest.raises(WrongSource, match="error: 'none' undeclared"):
        make(Source("_x", "static const int x;", text))


def test_nothing_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(toolchain.tempfile, "tempdir", str(tmp_path))
    built: Any = build(Source("_x", "static const int x;", "enum { x = 5 };"))
    assert built.lib.x == 5
    assert list(tmp_path.iterdir()) == []
