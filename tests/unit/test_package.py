"""The package's front door."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

import libvirt_postcopy


def run(program: str) -> str:
    """Run a program in a process of its own, where nothing has been imported yet."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        check=False,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", libvirt_postcopy.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(libvirt_postcopy, name) is not None


@pytest.mark.programs
def test_names_of_the_series_are_callable_whatever_was_touched_first() -> None:
    """The module 'install' must never hide the function."""
    run(
        "import libvirt, libvirt_postcopy as p\n"
        "p.uninstall(libvirt)\n"
        "p.install(libvirt)\n"
        "p.uninstall(libvirt)\n"
    )
    run(
        "import libvirt, libvirt_postcopy.install, libvirt_postcopy as p\n"
        "p.install(libvirt)\n"
        "p.uninstall(libvirt)\n"
    )


@pytest.mark.programs
def test_importing_the_package_imports_no_libvirt() -> None:
    out = run(
        "import sys, libvirt_postcopy as p\n"
        "p.Stats, p.Phase, p.parse_policy, p.VIR_MIGRATE_ENABLE_POSTCOPY\n"
        "print('libvirt' in sys.modules)\n"
        "p.migrate\n"
        "print('libvirt' in sys.modules)\n"
    )
    assert out.split() == ["False", "True"]


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'teleport'"):
        libvirt_postcopy.teleport  # noqa: B018


def test_package_logs_nothing_by_itself() -> None:
    handlers = logging.getLogger("libvirt_postcopy").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)


def test_version_is_a_version() -> None:
    assert all(part.isdigit() for part in libvirt_postcopy.__version__.split("."))
