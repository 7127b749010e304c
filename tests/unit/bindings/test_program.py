"""``libvirt-postcopy bindings`` and ``tools/check_bindings.py``."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import libvirt
import pytest
from jsonschema import Draft202012Validator

import check_bindings
from libvirt_postcopy.bindings.functions import SYMBOLS
from libvirt_postcopy.bindings.library import loaded_files
from libvirt_postcopy.bindings.report import Finding, Report, Severity
from libvirt_postcopy.bindings.symbols import LIBVIRT, QEMU
from libvirt_postcopy.cli.main import main
from libvirt_postcopy.preflight.finding import Verdict
from libvirt_postcopy.preflight.run import judge
from unit.preflight.scene import GOOD, one

SCHEMA = Path(__file__).parents[3] / "schemas" / "bindings.schema.json"

Capture = pytest.CaptureFixture[str]


def run(*words: str) -> tuple[int, str]:
    out = io.StringIO()
    return main(["bindings", *words], out), out.getvalue()


def in_a_process(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = "import sys; from libvirt_postcopy.cli.main import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", program, "bindings", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.programs
def test_tables() -> None:
    status, text = run("--no-compile")
    assert status == 0
    lines = text.splitlines()
    for name, symbol in SYMBOLS.items():
        row = next(line.split() for line in lines if line.split()[:1] == [name])
        assert row == [name, symbol.node, symbol.library, symbol.binding, "binding"]
    assert any(line.split()[:4] == ["disks_port", "1.3.3", "INT", "INT"] for line in lines)  # fmt: skip
    assert "compiler: not asked for" in text
    assert lines[-1].startswith("libvirt ")


@pytest.mark.programs
def test_json_follows_its_schema() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    status, text = run("--json", "--no-compile")
    found = json.loads(text)
    Draft202012Validator(schema).validate(found)
    assert status == 0 and found["ok"] is True
    assert found["compiled"] == "not asked for"
    assert len(found["symbols"]) == len(SYMBOLS)


@pytest.mark.programs
def test_finding_that_breaks_a_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt, "VIR_MIGRATE_POSTCOPY", 1)
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    status, text = run("--json", "--no-compile")
    found = json.loads(text)
    Draft202012Validator(schema).validate(found)
    assert status == 1 and found["ok"] is False
    assert found["findings"][0]["what"] == "VIR_MIGRATE_POSTCOPY"


@pytest.mark.programs
def test_library_that_is_not_libvirt(tmp_path: Path) -> None:
    done = in_a_process("--no-compile", "--library", loaded_files(QEMU)[0])
    assert (done.returncode, done.stderr) == (1, "")
    assert "it is no libvirt.so.0: it calls itself 'libvirt-qemu.so.0'" in done.stdout


@pytest.mark.programs
def test_truncated_library_that_would_be_loaded(tmp_path: Path) -> None:
    """The dynamic loader itself dies of it, or refuses."""
    content = Path(loaded_files(LIBVIRT)[0]).read_bytes()
    for part in (len(content) // 2, 100, 0):
        (tmp_path / LIBVIRT).write_bytes(content[:part])
        done = in_a_process(LD_LIBRARY_PATH=str(tmp_path))
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: libvirt-python cannot be loaded: ")
        assert re.search(r"ended with SIG|Error: ", line), line
        assert "reinstall" in line or "install libvirt" in line


@pytest.mark.programs
def test_library_that_ends_whoever_loads_it(tmp_path: Path) -> None:
    (tmp_path / "libvirt.py").write_text("import os; os.kill(os.getpid(), 7)")
    done = in_a_process(PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "loading it ended with SIGBUS (reinstall" in done.stderr


@pytest.mark.programs
def test_modules_of_the_working_directory_are_not_run(tmp_path: Path) -> None:
    """As root, in a folder where anybody may write."""
    for name in ("libvirt", "libvirt_qemu", "cffi", "subprocess"):
        (tmp_path / f"{name}.py").write_text(f"open('{tmp_path}/run', 'w')")
    program = Path(sys.executable).with_name("libvirt-postcopy")
    done = subprocess.run(
        [program, "bindings", "--no-compile"], cwd=tmp_path, capture_output=True, timeout=120, check=True
    )  # fmt: skip
    assert done.stderr == b"" and not (tmp_path / "run").exists()


@pytest.mark.programs
@pytest.mark.parametrize("name", ["cffi", "_cffi_backend", "pycparser"])
def test_missing_cffi(tmp_path: Path, name: str) -> None:
    """The files of the libraries tell as much; what the loader and the compiler would say is not known."""
    missing = f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')"
    (tmp_path / f"{name}.py").write_text(missing)
    done = in_a_process("--json", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert all(each["path"] == "binding" for each in found["symbols"])
    assert found["compiled"] == f"not asked: No module named '{name}' (pip install cffi)"  # fmt: skip
    (warning,) = (f for f in found["findings"] if f["severity"] == "warning")
    assert warning["what"] == "cffi" and warning["cure"] == "pip install cffi"


@pytest.mark.programs
def test_missing_library(tmp_path: Path) -> None:
    (tmp_path / "libvirt.py").write_text(
        "raise ImportError('libvirt.so.0: cannot open shared object file: No such file or directory')"
    )
    done = in_a_process(PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and "libvirt0 (Debian, Ubuntu)" in done.stderr


@pytest.mark.programs
def test_missing_binding(tmp_path: Path) -> None:
    (tmp_path / "libvirt.py").write_text("import libvirtmod_that_is_not_there")
    done = in_a_process(PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and "pip install libvirt-python" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("option", ["--library", "--qemu-library", "--api"])
def test_file_that_is_not_there(option: str, capsys: Capture) -> None:
    status, text = run(option, "/nowhere/libvirt.so.0")
    assert (status, text) == (2, "")
    assert f"{option}: there is no file '/nowhere/libvirt.so.0'" in capsys.readouterr().err  # fmt: skip


# For CI


@pytest.mark.programs
def test_ci_wants_a_compiler(capsys: Capture) -> None:
    assert check_bindings.main(["--no-compile"]) == 2


@pytest.mark.programs
def test_ci_wants_the_description(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_bindings, "find_description", lambda: "/nowhere/api.xml")
    assert check_bindings.main([]) == 2
    assert "no /nowhere/api.xml (install libvirt-dev)" in capsys.readouterr().err


@pytest.mark.programs
@pytest.mark.parametrize("option", ["--library", "--qemu-library", "--api"])
def test_ci_wants_the_files_that_it_is_given(option: str, capsys: Capture) -> None:
    assert check_bindings.main([option, "/nowhere/file"]) == 2
    assert f"{option}: there is no file" in capsys.readouterr().err


def test_ci_takes_a_warning_for_a_failure() -> None:
    good = Report("9.0.0", (), "", "", (), (), (), "headers of libvirt 9.0.0")
    assert check_bindings.verdict(good) == 0
    for severity, status in ((Severity.NOTE, 0), (Severity.WARNING, 1), (Severity.ERROR, 1)):  # fmt: skip
        report = replace(good, findings=(Finding(severity, "x", "y"),))
        assert check_bindings.verdict(report) == status


# In the preflight


def test_preflight_has_one_line_for_it() -> None:
    found = one("client/bindings", replace(GOOD, bindings="virX: libvirt lacks it"))
    assert found.side == "client" and found.severity.value == "warning"
    assert found.evidence == "virX: libvirt lacks it"
    assert "libvirt-postcopy bindings" in found.cure


def test_preflight_has_nothing_to_say_where_all_is_well() -> None:
    assert judge(GOOD).checks["client/bindings"] is Verdict.CLEAR
