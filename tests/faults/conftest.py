"""The lab in which these tests run."""

from __future__ import annotations

import os

import pytest

from labkit import Lab
from libvirt_postcopy.vir.calls import silence_libvirt
from libvirt_postcopy.vir.events import ensure_event_loop


@pytest.fixture(scope="session")
def lab() -> Lab:
    if "LIBVIRT_POSTCOPY_LAB_DIR" not in os.environ:
        pytest.exit("run these with tools/test integration, or with a lab up", 2)
    silence_libvirt()
    ensure_event_loop()
    return Lab.attach()
