"""A binding of ours to break, and the shim in libvirt's place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from libvirt_postcopy.bindings import call
from libvirt_postcopy.bindings.binding import Binding
from unit.bindings import shim


class Copy(SimpleNamespace):
    """libvirt-python's names, which can be changed without changing libvirt-python."""

    def __init__(self) -> None:
        super().__init__(**vars(libvirt))
        self.virDomain = type("virDomain", (), dict(vars(libvirt.virDomain)))
        self.virConnect = type("virConnect", (), dict(vars(libvirt.virConnect)))

    def lose(self, owner: str, method: str) -> None:
        delattr(getattr(self, owner), method)


@pytest.fixture
def module() -> Copy:
    return Copy()


@pytest.fixture
def binding(module: Any) -> Binding:
    qemu: ModuleType = libvirt_qemu
    return Binding(module, qemu, "12.8.0")


@pytest.fixture(scope="session")
def shim_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shim.build(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def in_place(shim_file: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Calls past the binding go to the shim; cffi, and the shim."""
    loaded = shim.load(shim_file)
    monkeypatch.setattr(call, "_opened", [loaded])
    return loaded


@pytest.fixture
def dom() -> Iterator[libvirt.virDomain]:
    """A domain of libvirt's test driver, which cannot migrate."""
    libvirt.registerErrorHandler(lambda context, error: None, None)
    connection = libvirt.open("test:///default")
    yield connection.lookupByName("test")
    connection.close()
    libvirt.registerErrorHandler(None, None)
