"""With the compiler and libvirt's headers that are installed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import libvirt
import pytest

from libvirt_postcopy.bindings import compiled, names, symbols
from libvirt_postcopy.bindings.binding import Binding
from libvirt_postcopy.bindings.compiled import CannotCompile, build, check_compiled
from libvirt_postcopy.bindings.names import ours
from libvirt_postcopy.bindings.report import Finding, Severity
from libvirt_postcopy.bindings.symbols import SYMBOLS, TYPES
from unit.bindings.conftest import Copy

START = "virDomainMigrateStartPostCopy"


@pytest.fixture(scope="module")
def built() -> Any:
    return build()


def findings(binding: Binding) -> list[Finding]:
    done, found = check_compiled(binding)
    assert done.startswith("headers of libvirt "), done
    return [each for each in found if each.severity is not Severity.NOTE]


def test_headers_agree(binding: Binding) -> None:
    assert findings(binding) == []


def test_everything_was_asked(built: Any) -> None:
    asked = set(dir(built.lib))
    version = built.lib.postcopy_version
    assert version // 1000 == libvirt.getVersion() // 1000
    since = ours().since
    for name in (*ours().numbers, *ours().strings):
        is_due = symbols.version_number(since.get(name, "0.0.0")) <= version
        assert (name in asked) is is_due, name
    for name, symbol in SYMBOLS.items():
        is_due = symbols.version_number(symbol.since) <= version
        assert getattr(built.lib, f"postcopy_same_{name}", 0) == is_due, name


def test_compiled_module_calls_libvirt(built: Any, dom: libvirt.virDomain) -> None:
    """The calls that the compiler has checked are real ones."""
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


def test_name_for_postcopy_that_we_lack(
    binding: Binding, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = dict(ours().numbers)
    del numbers["VIR_DOMAIN_RUNNING_POSTCOPY"]
    fewer = replace(ours(), numbers=MappingProxyType(numbers))
    monkeypatch.setattr(compiled, "ours", lambda: fewer)
    (found,) = findings(binding)
    assert found.what == "VIR_DOMAIN_RUNNING_POSTCOPY" and "(10)" in found.evidence


def test_bit_of_ours_in_the_headers(
    binding: Binding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libvirt_postcopy.constants.CLIENT_SIDE_FLAGS", 1 << 16)
    (found,) = findings(binding)
    assert "VIR_MIGRATE_TLS" in found.evidence


@pytest.mark.parametrize(
    "prototype",
    [
        f"int {START}(virDomainPtr domain, unsigned long flags)",
        f"long {START}(virDomainPtr domain, unsigned int flags)",
        f"int {START}(virDomainPtr domain)",
        f"int {START}(virConnectPtr domain, unsigned int flags)",
    ],
)
def test_prototype_that_is_wrong(
    binding: Binding, monkeypatch: pytest.MonkeyPatch, prototype: str
) -> None:
    wrong = {**SYMBOLS, START: replace(SYMBOLS[START], prototype=prototype)}
    monkeypatch.setattr(compiled, "SYMBOLS", wrong)
    # A call of it would not even compile; whether it is the same type is asked alone.
    monkeypatch.setattr(compiled, "_callable", lambda functions: ())
    (found,) = findings(binding)
    assert found.what == START and prototype in found.evidence


def test_structure_that_is_laid_out_otherwise(
    binding: Binding, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = TYPES.replace(
        "char field[80];\n    int type;", "int type;\n    char field[80];"
    )
    assert wrong != TYPES
    monkeypatch.setattr(compiled, "TYPES", wrong)
    found = {each.what for each in findings(binding)}
    assert found == {"virTypedParameter.field", "virTypedParameter.type"}


def test_structure_of_another_size(
    binding: Binding, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = TYPES.replace("    unsigned long long fileRemaining;\n", "")
    monkeypatch.setattr(compiled, "TYPES", wrong)
    fields = tuple(compiled._STRUCTURES["virDomainJobInfo"])
    assert "fileRemaining" in fields and len(fields) == 12
    monkeypatch.setattr(compiled, "_STRUCTURES", {"virDomainJobInfo": fields[:-1]})
    (found,) = findings(binding)
    assert found.what == "virDomainJobInfo" and "96 bytes" in found.evidence


def test_no_compiler(
    binding: Binding, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done, found = check_compiled(binding)
    assert done == "not asked: there is no C compiler (install gcc)" and found == []


def test_no_headers(binding: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_INCLUDES", "#include <libvirt/none.h>\n")
    done, found = check_compiled(binding)
    assert "none.h" in done and "install libvirt-dev" in done and found == []


def test_no_python_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths = {"include": str(tmp_path), "platinclude": str(tmp_path)}
    monkeypatch.setattr(compiled.sysconfig, "get_paths", lambda: paths)
    with pytest.raises(CannotCompile, match="install python3-dev"):
        build()


def test_compiler_that_fails(binding: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFLAGS", "-Dint=void*")
    done, _ = check_compiled(binding)
    assert done.startswith("not asked: ") and "error" in done


def test_nothing_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compiled.tempfile, "tempdir", str(tmp_path))
    build()
    assert list(tmp_path.iterdir()) == []


def test_names_are_those_of_the_constants() -> None:
    assert names.ours().has("VIR_MIGRATE_POSTCOPY_RESUME")
    assert names.ours().has("VIR_MIGRATE_PARAM_COMPRESSION_ZLIB_LEVEL")
