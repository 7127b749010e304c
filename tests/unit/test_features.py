from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libvirt_postcopy.features import (
    MULTIFD_AND_POSTCOPY,
    after_rejection,
    call_path,
    explain,
    is_about_certificates,
    is_about_migration_tls,
    is_final_refusal,
    is_unreachable_peer,
    version_text,
)

UNABLE = "internal error: unable to execute QEMU command"
UFFD = "Userfaultfd not available: Operation not permitted"
NO_DRIVER = (
    "no connection driver available for URI 'b/system' does not include a driver name"
)
NO_CREDENTIALS = f"{UNABLE} 'object-add': Unable to access credentials /etc/pki/qemu/ca-cert.pem: No such file or directory"
NO_CERTIFICATE = (
    "Cannot read CA certificate '/etc/pki/CA/cacert.pem': No such file or directory"
)
WRAPPED = (
    "operation failed: Failed to connect to remote libvirt URI qemu+tcp://b/system"
)
NO_SOCKET = "Failed to connect socket to '/var/run/libvirt/libvirt-sock'"
REFUSED = "unable to connect to server at 'b:16509': Connection refused"


@pytest.mark.parametrize(
    "message, what, side, cure",
    [
        (  # QEMU 5.2, 7.2
            f"{UNABLE} 'migrate-set-capabilities': Postcopy is not supported",
            "the destination's QEMU refused post-copy: ",
            "destination",
            "userfaultfd",
        ),
        (
            "internal error: process exited while connecting to monitor: qemu:\nram: Cannot allocate memory",
            "its QEMU cannot get the memory it needs: ",
            "destination",
            "free memory there",
        ),
        (  # QEMU 8.1 and later
            f"{UNABLE} 'migrate-set-capabilities': Postcopy is not supported: {UFFD}",
            "the destination's QEMU refused post-copy: ",
            "destination",
            "vm.unprivileged_userfaultfd=1",
        ),
        (
            "Requested operation is not valid: domain is not running",
            "the domain is not running",
            "source",
            "start it first",
        ),
        (
            "internal error: Attempt to migrate guest to the same host 5f0c-aa",
            "source and destination are the same host: ",
            "destination",
            "host_uuid",
        ),
        (
            "argument unsupported: post-copy migration is not supported with non-live or paused migration",
            "",
            "source",
            "--live",
        ),
        (
            "argument unsupported: post-copy is not supported with tunnelled migration",
            "",
            "source",
            "--tls",
        ),
        (
            "Operation not supported: Migration option 'postcopy-ram' is not supported by QEMU binary",
            "this QEMU has no post-copy",
            "source",
            "QEMU >= 2.6",
        ),
        (
            "Unsafe migration: Migration without shared storage is unsafe",
            "",
            "source",
            "--copy-storage-all",
        ),
        (
            "Requested operation is not valid: another migration job is already running for domain 'web1'",
            "",
            "source",
            "attach",
        ),
        (
            f"operation failed: Failed to connect to remote libvirt URI qemu+tcp://b/system: {REFUSED}",
            "",
            "destination",
            "listens",
        ),
        ("unable to connect to server at 'b:16514': No route to host", "", "destination", "firewall"),
        ("Unable to resolve address 'b' service '16509': Name or service not known", "", "destination", "check the name"),
        (
            "unable to connect to server at 'b:49152': Connection refused",
            "cannot reach the destination for migration: ",
            "source",
            "--migrateuri tcp://ADDRESS",
        ),
        (
            "Unable to resolve address 'b' service '49215': Name or service not known",
            "cannot reach the destination for migration: ",
            "source",
            "49152 to 49215",
        ),
        ("invalid argument: missing scheme in migration URI: b", "", "", "write --migrateuri tcp://HOST"),
        ("argument unsupported: unsupported scheme http in migration URI http://b", "", "", "write --migrateuri tcp://HOST"),
        (
            f"{UNABLE} 'migrate-incoming': Failed to bind socket: Cannot assign requested address",
            "cannot listen for migration: ",
            "destination",
            "--listen-address",
        ),
        (NO_DRIVER, "", "", "qemu+ssh://HOST/system"),
        (f"{NO_SOCKET}: No such file or directory", "", "", "systemctl start libvirtd"),
        (f"{NO_SOCKET}: Connection refused", "", "", "systemctl start libvirtd"),
        (f"{NO_SOCKET}: Permission denied", "", "", "group libvirt"),
        ("internal error: unexpected qemu URI path '', try qemu:///system", "", "", "write the path too"),
        ("no connection driver available for foo:///system", "", "", "the URI's driver"),
        ("remote_open: transport in URL not recognised (should be tls|unix)", "", "", "one of these"),
        (NO_CREDENTIALS, "no TLS certificates for migration: ", "", "leave out --tls"),
        (NO_CERTIFICATE, "", "", "libvirt's TLS certificates"),
        (f"{WRAPPED}: {NO_CERTIFICATE}", "", "", "libvirt's TLS certificates"),
        (
            "post-copy can only be started while outgoing migration is in progress",
            "",
            "source",
            "start with migrate --live --postcopy",
        ),
        (
            "switching to post-copy requires migration to be started with VIR_MIGRATE_POSTCOPY flag",
            "",
            "source",
            "abort it and start it with --postcopy",
        ),
        (
            "Cannot recv data: Host key verification failed.: Connection reset by peer",
            "",
            "destination",
            "check the name",
        ),
        (
            "operation failed: domain 'web1' already exists with uuid 6f0b2a3c",
            "",
            "destination",
            "this guest's other half",
        ),
    ],
)  # fmt: skip
def test_refusal_is_explained(message: str, what: str, side: str, cure: str) -> None:
    known = explain(message)
    assert known.what.startswith(what or message)
    assert known.side == side
    assert cure in known.cure


def test_explanation_keeps_libvirts_own_words_where_they_say_more() -> None:
    message = "internal error: Attempt to migrate guest to the same host 5f0c-aa"
    assert message in explain(message).what


@pytest.mark.parametrize(
    "message",
    [
        "",
        "operation failed: job 'migration in' failed in post-copy phase",
        "Timed out during operation: cannot acquire state change lock (held by monitor=x)",
        "a {brace} and a %s",
    ],
)
def test_unknown_refusal_is_shown_as_it_is(message: str) -> None:
    known = explain(message)
    assert (known.what, known.side, known.cure) == (message, "", "")


def test_braces_in_a_refusal_do_no_harm() -> None:
    message = "unable to connect to server at '{host}:{0}': Connection refused"
    assert explain(message).what == message


@given(st.text())
def test_no_text_makes_explaining_fail(message: str) -> None:
    assert explain(message).what or not message


INVALID, INTERNAL, TIMEOUT = 55, 1, 68


@pytest.mark.parametrize(
    "code, message",
    [
        (INTERNAL, f"{UNABLE} 'migrate-start-postcopy': Enable postcopy with migrate_set_capability before the start"),
        (INTERNAL, f"{UNABLE} 'migrate-start-postcopy': Postcopy must be started after migration has been started"),
        (INVALID, "post-copy can only be started while outgoing migration is in progress"),
        (TIMEOUT, "Timed out during operation: cannot acquire state change lock (held by monitor=x)"),
        (None, ""),
    ],
)  # fmt: skip
def test_refusal_of_the_switch_that_time_may_cure(
    code: int | None, message: str
) -> None:
    assert not is_final_refusal(code, message)


@pytest.mark.parametrize(
    "code, message",
    [
        (INVALID, "switching to post-copy requires migration to be started with VIR_MIGRATE_POSTCOPY flag"),
        (3, "this function is not supported by the connection driver: virDomainMigrateStartPostCopy"),
        (29, "operation virDomainMigrateStartPostCopy forbidden for read only access"),
        (88, "access denied"),
    ],
)  # fmt: skip
def test_refusal_of_the_switch_that_is_final(code: int, message: str) -> None:
    assert is_final_refusal(code, message)


def test_missing_certificates_are_told_apart() -> None:
    assert is_about_certificates(NO_CERTIFICATE)
    assert is_about_migration_tls(NO_CREDENTIALS)
    assert not is_about_certificates(NO_CREDENTIALS)
    assert not is_about_migration_tls(NO_CERTIFICATE)


@pytest.mark.parametrize(
    "domain, message, is_unreachable",
    [
        (7, "unable to connect to server at 'b:16509': Connection refused", True),
        (13, "no connection driver available", True),
        (46, "authentication failed", True),
        (10, WRAPPED, True),
        (10, "operation failed: migration out job: unexpectedly failed", False),
        (None, "", False),
    ],
)
def test_peer_is_unreachable_by_the_part_of_libvirt_or_its_words(
    domain: int | None, message: str, is_unreachable: bool
) -> None:
    assert is_unreachable_peer(domain, message) is is_unreachable


@pytest.mark.parametrize(
    "number, text",
    [
        (7_002_022, "7.2.22"),
        (10_000_002, "10.0.2"),
        (11_001_003, "11.1.3"),
        (0, "0.0.0"),
    ],
)
def test_version_is_written_as_people_know_it(number: int, text: str) -> None:
    assert version_text(number) == text


def test_multifd_and_postcopy_go_together_from_qemu_10_1_on() -> None:
    assert version_text(MULTIFD_AND_POSTCOPY) == "10.1.0"


@pytest.mark.parametrize(
    "qemu, can_go_on",
    [
        (0, None),
        (2_005_000, True),
        (3_000_001, True),
        (3_001_000, None),  # nobody has tried
        (4_002_001, False),
        (7_002_022, False),
        (10_001_000, False),
        (10_002_000, None),  # it does so by itself, or something keeps it from that
    ],
)
def test_source_whose_destination_rejects_the_devices(
    qemu: int, can_go_on: bool | None
) -> None:
    found = after_rejection(qemu)
    assert found.can_go_on is can_go_on
    assert (version_text(qemu) in found.text) is bool(qemu)


# The way of a call


@pytest.mark.parametrize(
    "library, binding, past, monitor, path",
    [
        (True, True, True, True, "binding"),
        (True, True, False, False, "binding"),
        (True, False, True, True, "cffi"),
        (True, False, False, True, "passthrough"),
        (True, False, False, False, "none"),
        (False, True, True, True, "passthrough"),
        (False, True, True, False, "none"),
        (False, False, True, False, "none"),
    ],
)
def test_way_of_a_call(
    library: bool, binding: bool, past: bool, monitor: bool, path: str
) -> None:
    """Past the binding only into a library that has the function."""
    found = call_path(
        in_library=library,
        in_binding=binding,
        past_binding=past,
        by_monitor=monitor,
    )
    assert found.value == path
