from __future__ import annotations

from typing import Any

import pytest

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.vir.destination import checked_destination
from unit.fakes import FakeConnection


@pytest.mark.parametrize("dest", ["b", "qemu+tls://b/system", FakeConnection()])
def test_uri_or_connection(dest: Any) -> None:
    assert checked_destination(dest) is dest


@pytest.mark.parametrize(
    "dest, complaint",
    [
        ("", "destination: the destination URI is empty"),
        (" \t", "destination: the destination URI is empty"),
        (None, "destination: the destination is neither a URI nor a connection: None"),
        (b"x" * 99, f"destination: the destination is neither a URI nor a connection: b'{'x' * 38}"),
    ],
)  # fmt: skip
def test_what_is_neither(dest: Any, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        checked_destination(dest)
    assert str(caught.value) == complaint
