from __future__ import annotations

import copy
import pickle
import re

import libvirt
import pytest

from libvirt_postcopy import errors
from libvirt_postcopy.errors import (
    GuestLost,
    LibvirtError,
    MigrationCancelled,
    MigrationError,
    MigrationFailed,
    MigrationUnknown,
    NotSupportedError,
    PostcopyBroken,
    PostcopyError,
    StateError,
    UsageError,
    as_refusal,
    refusal,
)
from unit.fakes import refused

ALL = [
    PostcopyError,
    UsageError,
    NotSupportedError,
    StateError,
    LibvirtError,
    MigrationError,
    MigrationCancelled,
    MigrationFailed,
    PostcopyBroken,
    MigrationUnknown,
    GuestLost,
]


@pytest.mark.parametrize("kind", ALL)
def test_all_can_be_caught_as_the_root(kind: type[PostcopyError]) -> None:
    with pytest.raises(PostcopyError):
        raise kind("wrong")


def test_all_are_public() -> None:
    makers = {"refusal", "as_refusal"}
    assert set(errors.__all__) == {kind.__name__ for kind in ALL} | makers


@pytest.mark.parametrize(
    "parts, text",
    [
        ({}, "no such thing"),
        ({"side": "source"}, "source: no such thing"),
        ({"cure": "make one"}, "no such thing (make one)"),
        ({"side": "source", "cure": "make one"}, "source: no such thing (make one)"),
    ],
)
def test_text_is_one_line_of_what_where_and_cure(
    parts: dict[str, str], text: str
) -> None:
    assert str(UsageError("no such\n  thing", **parts)) == text


@pytest.mark.parametrize(
    "kind, guest",
    [
        (MigrationCancelled, "source"),
        (MigrationFailed, "source"),
        (PostcopyBroken, "split"),
        (MigrationUnknown, "unknown"),
        (GuestLost, "lost"),
    ],
)
def test_migration_error_says_where_the_guest_is(
    kind: type[MigrationError], guest: str
) -> None:
    error = kind("gone wrong", side="source", cure="wait", phase="post-copy")
    assert (error.guest, error.phase) == (guest, "post-copy")
    assert str(error) == "source: gone wrong (wait)"


@pytest.mark.parametrize("kind", ALL)
def test_tree_promises_what_there_is(kind: type[PostcopyError]) -> None:
    (line,) = re.findall(
        rf"(?:─ |^    ){kind.__name__}\b(.*)", str(errors.__doc__), re.M
    )
    for name in re.findall(r"\.([a-z_]+)", line):
        assert hasattr(kind("gone wrong"), name), name


@pytest.mark.parametrize("kind", ALL)
def test_refusal_of_libvirt_is_caught_as_either(kind: type[PostcopyError]) -> None:
    cause = refused(55, "job 'migration out' is not active")
    made = refusal(kind("not now", side="source", cure="wait"), cause)
    for each in (kind, PostcopyError, libvirt.libvirtError):
        with pytest.raises(each):
            raise made


def test_refusal_keeps_the_parts_and_the_cause() -> None:
    cause = refused(55, "job 'migration out' is not active")
    ours = MigrationFailed("not now", side="source", cure="wait", phase="pre-copy")
    made = refusal(ours, cause)
    assert (made.what, made.side, made.cure) == ("not now", "source", "wait")
    assert (made.phase, made.guest) == ("pre-copy", "source")
    assert str(made) == str(ours)
    assert made.__cause__ is cause
    assert type(made).__name__ == "MigrationFailed"


def test_refusal_answers_as_libvirt_error_does() -> None:
    made = refusal(LibvirtError("not now"), refused(55, "is not active", domain=10))
    assert isinstance(made, libvirt.libvirtError)
    assert made.get_error_code() == 55
    assert made.get_error_domain() == 10
    assert made.get_error_message() == "is not active"


def test_refusal_does_not_read_another_threads_or_calls_error() -> None:
    made = refusal(UsageError("ours"), refused(8, "theirs"))
    assert made.args[0] == "ours"


def test_refusal_can_be_made_of_a_refusal() -> None:
    once = refusal(LibvirtError("not now"), refused(55, "first"))
    twice = refusal(once, refused(1, "second"))
    assert isinstance(twice, LibvirtError) and isinstance(twice, libvirt.libvirtError)
    assert twice.get_error_message() == "second"


def test_refusals_of_one_kind_are_of_one_class() -> None:
    made = [refusal(UsageError(word), refused(8, word)) for word in ("a", "b")]
    assert type(made[0]) is type(made[1])


def test_no_refusal_is_no_libvirt_error() -> None:
    assert not isinstance(UsageError("wrong"), libvirt.libvirtError)


@pytest.mark.parametrize(
    "through", [copy.copy, lambda it: pickle.loads(pickle.dumps(it))]
)
@pytest.mark.parametrize("kind", ALL)
def test_error_survives_copy_and_pickle(kind: type[PostcopyError], through) -> None:
    error = kind("gone wrong", side="source", cure="wait")
    error.note = 7  # whatever was stored on it
    twin = through(error)
    assert type(twin) is kind
    assert (str(twin), twin.side, twin.note) == (str(error), "source", 7)


def test_error_of_ours_can_be_made_libvirts() -> None:
    made = as_refusal(StateError("not now", cure="wait"), libvirt.libvirtError, 55)
    assert isinstance(made, StateError) and isinstance(made, libvirt.libvirtError)
    assert str(made) == "not now (wait)" and made.cure == "wait"
    told = (made.get_error_code(), made.get_error_domain(), made.get_error_level())
    assert told == (55, libvirt.VIR_FROM_NONE, libvirt.VIR_ERR_ERROR)
    assert made.get_error_message() == "not now (wait)" and made.get_int1() == -1


@pytest.mark.parametrize(
    "made",
    [
        refusal(LibvirtError("not now", side="source"), refused(55, "is not active")),
        as_refusal(LibvirtError("not now"), libvirt.libvirtError, 55),
    ],
)
def test_refusal_survives_pickle(made: LibvirtError) -> None:
    twin = pickle.loads(pickle.dumps(made))
    assert isinstance(twin, LibvirtError) and isinstance(twin, libvirt.libvirtError)
    assert str(twin) == str(made) and twin.get_error_code() == 55
