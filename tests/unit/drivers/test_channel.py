from __future__ import annotations

import socket

import pytest

from libvirt_postcopy.drivers.channel import channel_of, host_of
from libvirt_postcopy.errors import UsageError


@pytest.mark.parametrize(
    ("uri", "listening", "connecting"),
    [
        (None, "tcp:192.0.2.7:49184,to=49215", "tcp:192.0.2.7:1"),
        ("tcp://192.0.2.9", "tcp:192.0.2.9:49184,to=49215", "tcp:192.0.2.9:1"),
        ("tcp:192.0.2.9", "tcp:192.0.2.9:49184,to=49215", "tcp:192.0.2.9:1"),
        ("tcp://192.0.2.9:5/", "tcp:192.0.2.9:5", "tcp:192.0.2.9:1"),
        ("tcp://[2001:db8::1]:5", "tcp:[2001:db8::1]:5", "tcp:[2001:db8::1]:1"),
        ("unix:///run/m.sock", "unix:/run/m.sock", "unix:/run/m.sock"),
        ("unix:/run/m.sock", "unix:/run/m.sock", "unix:/run/m.sock"),
    ],
)
def test_uris(uri: str | None, listening: str, connecting: str) -> None:
    channel = channel_of("192.0.2.7", migrate_uri=uri)
    assert channel.listening_uri() == listening
    assert channel.connecting_uri(1) == connecting


def test_listen_address_is_for_the_destination_only() -> None:
    channel = channel_of("192.0.2.7", listen_address="192.0.2.8", ports=(5,))
    assert channel.listening_uri() == "tcp:192.0.2.8:5"
    assert channel.connecting_uri(5) == "tcp:192.0.2.7:5"


def test_one_port() -> None:
    channel = channel_of("2001:db8::1", listen_address="2001:db8::2").at_port(9)
    assert channel.listening_uri() == "tcp:[2001:db8::2]:9"
    assert channel.listening_address() == {"type": "inet", "data": {"host": "2001:db8::2", "port": "9"}}  # fmt: skip
    assert channel.connecting_address()["data"]["host"] == "2001:db8::1"


def test_both_ends_get_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
    channel = channel_of("b.example")
    assert channel.name == "b.example"
    assert channel.connecting_uri(1) == "tcp:192.0.2.7:1"


@pytest.mark.parametrize(
    ("host", "uri", "words"),
    [
        ("", None, "address is not known.*--migrateuri"),
        ("127.0.1.1", None, "leads to this machine itself"),
        ("::1", None, "leads to this machine itself"),
        ("192.0.2.7", "rdma://192.0.2.7", "cannot migrate to 'rdma"),
        ("192.0.2.7", "tcp:192.0.2.7:0", "no port 0"),
        ("192.0.2.7", "tcp:192.0.2.7:65536", "no port 65536"),
        ("192.0.2.7", "tcp:h,to=9:1", "cannot be resolved"),
        ("192.0.2.7", "unix:relative", "cannot migrate to"),
        ("a" * 300, None, "cannot be resolved"),
    ],
)
def test_what_cannot_be_meant(host: str, uri: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        channel_of(host, migrate_uri=uri)


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("qemu+tls://b.example/system", "b.example"),
        ("qemu+ssh://root@192.0.2.7:22/system", "192.0.2.7"),
        ("qemu:///system", ""),
        ("qemu+tcp://[2001:db8::1]/system", "2001:db8::1"),
        ("qemu://[/system", ""),
        (None, ""),
    ],
)
def test_host_of_a_uri(uri: str | None, host: str) -> None:
    assert host_of(uri) == host
