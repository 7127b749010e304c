"""The series' names on the libvirt module, on a stand-in and on the real one."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from importlib import import_module
from types import ModuleType, SimpleNamespace

import libvirt
import pytest

from libvirt_postcopy import api
from libvirt_postcopy.constants import VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY
from libvirt_postcopy.errors import (
    LibvirtError,
    MigrationCancelled,
    NotSupportedError,
    PostcopyBroken,
    PostcopyError,
    StateError,
    UsageError,
    refusal,
)
from libvirt_postcopy.vir import fallback
from unit.fakes import FakeDomain, refused

patch = import_module("libvirt_postcopy.install")

OURS = int(VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY)
LIVE = libvirt.VIR_MIGRATE_LIVE
METHODS = ["migrate", "migrate2", "migrate3", "migrateToURI", "migrateToURI2", "migrateToURI3"]  # fmt: skip
ADDED = [
    "VIR_MIGRATE_ENABLE_POSTCOPY",
    "VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY",
    "virDomainMigrateStartPostCopy",
]


def libvirt_like(leave_out: tuple[str, ...] = ()) -> ModuleType:
    """A module whose virDomain has the six methods, which return what they were given."""

    class virDomain:
        def resume(self) -> int:
            return 0

    for name in METHODS:
        if name not in leave_out:

            def method(self, *args, _name=name, **kwargs):
                """libvirt's own."""
                return ("libvirt", _name, args, kwargs)

            method.__name__ = name
            setattr(virDomain, name, method)
    module = ModuleType("libvirt")
    module.virDomain = virDomain
    module.libvirtError = libvirt.libvirtError
    return module


@pytest.fixture
def module():
    made = libvirt_like()
    yield made
    patch.uninstall(made)


@pytest.fixture
def migrations(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What our own migrate() was called with."""
    calls: list[tuple] = []

    def migrate(dom, dest, *, flags, params):
        calls.append((dom, dest, flags, params))
        return SimpleNamespace(domain="the domain there")

    monkeypatch.setattr(api, "migrate", migrate)
    return calls


def contents(module: ModuleType) -> tuple[dict, dict]:
    return dict(vars(module)), dict(vars(module.virDomain))


# Installing


def test_series_names_are_there(module: ModuleType) -> None:
    patch.install(module)
    assert module.VIR_MIGRATE_ENABLE_POSTCOPY == libvirt.VIR_MIGRATE_POSTCOPY
    assert module.VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY == OURS
    assert type(module.VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY) is int
    assert callable(module.virDomainMigrateStartPostCopy)


def test_uninstall_takes_back_exactly_what_was_done(module: ModuleType) -> None:
    before = contents(module)
    patch.install(module)
    assert contents(module) != before
    patch.uninstall(module)
    assert contents(module) == before


def test_second_install_changes_nothing(module: ModuleType) -> None:
    before = contents(module)
    patch.install(module)
    once = contents(module)
    patch.install(module)
    assert contents(module) == once
    patch.uninstall(module)
    assert contents(module) == before


def test_uninstall_without_install_changes_nothing(module: ModuleType) -> None:
    before = contents(module)
    patch.uninstall(module)
    assert contents(module) == before


def test_name_that_was_there_before_comes_back(module: ModuleType) -> None:
    module.VIR_MIGRATE_ENABLE_POSTCOPY = "somebody else's"
    patch.install(module)
    patch.uninstall(module)
    assert module.VIR_MIGRATE_ENABLE_POSTCOPY == "somebody else's"


def test_inherited_method_is_not_left_behind_on_the_class() -> None:
    class Base:
        def migrate(self, dconn, flags=0):
            return "inherited"

    module = ModuleType("libvirt")
    module.virDomain = type("virDomain", (Base,), {})
    before = contents(module)
    patch.install(module)
    assert module.virDomain().migrate("d") == "inherited"
    patch.uninstall(module)
    assert contents(module) == before


def test_method_that_this_libvirt_lacks_is_not_invented() -> None:
    module = libvirt_like(leave_out=("migrate3", "migrateToURI3"))
    patch.install(module)
    assert not hasattr(module.virDomain, "migrate3")
    patch.uninstall(module)


def test_what_somebody_else_has_put_over_ours_stays(module: ModuleType) -> None:
    patch.install(module)
    ours = module.virDomain.migrate3

    def theirs(self, *args):
        return "theirs", ours(self, *args)

    module.virDomain.migrate3 = theirs
    module.VIR_MIGRATE_ENABLE_POSTCOPY = "theirs"
    patch.uninstall(module)
    assert module.virDomain.migrate3 is theirs
    assert module.VIR_MIGRATE_ENABLE_POSTCOPY == "theirs"
    assert not hasattr(module.virDomain.migrate, "__wrapped__")


def test_ours_under_somebody_elses_does_nothing_after_uninstall(
    module: ModuleType, migrations: list
) -> None:
    patch.install(module)
    bound = module.virDomain().migrate3
    patch.uninstall(module)
    args = ("dconn", {}, LIVE | OURS)
    assert bound(*args) == ("libvirt", "migrate3", args, {})
    assert migrations == []


ADDED_METHODS = {
    "migrateStartPostCopy": ("start_postcopy", (7, fallback.path(fallback.START))),
    "abortJobFlags": ("abort_job_flags", (7,)),
}


@pytest.mark.parametrize("name", ADDED_METHODS)
def test_method_that_the_binding_lacks_goes_past_it_until_uninstall(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    called: list[tuple] = []
    function, more = ADDED_METHODS[name]
    monkeypatch.setattr(fallback, function, lambda *args: called.append(args))
    patch.install(module)
    dom = module.virDomain()
    assert getattr(dom, name)(7) == 0 and getattr(dom, name)(flags=7) == 0
    assert called == [(dom, *more)] * 2
    patch.uninstall(module)
    assert not hasattr(module.virDomain, name)


@pytest.mark.parametrize("name", ADDED_METHODS)
def test_method_that_the_binding_has_is_left_alone(
    module: ModuleType, name: str
) -> None:
    setattr(module.virDomain, name, lambda self: "libvirt's own")
    patch.install(module)
    assert getattr(module.virDomain(), name)() == "libvirt's own"


def test_method_past_the_binding_fails_as_libvirt_does(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise NotSupportedError("no way", side="client")

    monkeypatch.setattr(fallback, "start_postcopy", refuse)
    patch.install(module)
    with pytest.raises(libvirt.libvirtError, match="client: no way"):
        module.virDomain().migrateStartPostCopy()


@pytest.mark.parametrize(
    "error, number",
    [
        (NotSupportedError("no way", side="client"), libvirt.VIR_ERR_OPERATION_UNSUPPORTED),
        (UsageError("no flag", side="client"), libvirt.VIR_ERR_INVALID_ARG),
    ],
)  # fmt: skip
def test_call_of_the_series_returns_and_fails_as_libvirts_method(
    module: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    error: PostcopyError,
    number: int,
) -> None:
    patch.install(module)
    dom = FakeDomain()
    assert module.virDomainMigrateStartPostCopy(dom) == 0
    assert module.virDomainMigrateStartPostCopy(dom, flags=7) == 0
    assert dom.calls == [("migrateStartPostCopy", 0), ("migrateStartPostCopy", 7)]

    def refuse(*args: object) -> None:
        raise error

    monkeypatch.setattr(dom, "migrateStartPostCopy", refuse)
    with pytest.raises(libvirt.libvirtError, match="client: no") as caught:
        module.virDomainMigrateStartPostCopy(dom)
    assert caught.value.get_error_code() == number


def test_two_modules_do_not_mix(module: ModuleType) -> None:
    other = libvirt_like()
    before = contents(other)
    patch.install(module)
    patch.install(other)
    patch.uninstall(other)
    assert contents(other) == before
    assert module.VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY == OURS


@pytest.mark.parametrize("wrong", [ModuleType("os"), SimpleNamespace()])
def test_something_else_than_libvirt_is_refused(wrong) -> None:
    with pytest.raises(UsageError, match="libvirt module"):
        patch.install(wrong)


def test_many_threads_install_once(module: ModuleType) -> None:
    before = contents(module)
    start = threading.Barrier(30)

    def install() -> None:
        start.wait()
        patch.install(module)

    threads = [threading.Thread(target=install) for _ in range(30)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert module.virDomain.migrate.__wrapped__ is before[1]["migrate"]
    patch.uninstall(module)
    assert contents(module) == before


def test_methods_keep_their_names_and_words(module: ModuleType) -> None:
    patch.install(module)
    assert module.virDomain.migrate3.__name__ == "migrate3"
    assert module.virDomain.migrate3.__doc__ == "libvirt's own."


# Calling


@pytest.mark.parametrize(
    "name, args, kwargs",
    [
        ("migrate", ("dconn",), {}),
        ("migrate", ("dconn", LIVE, "web2", "tcp://b", 8), {}),
        ("migrate", (), {"dconn": "dconn", "flags": LIVE, "bandwidth": None}),
        ("migrate", ("dconn", None), {}),
        ("migrate2", ("dconn", "<domain/>", LIVE), {"uri": "tcp://b"}),
        ("migrate3", ("dconn", {"bandwidth": 8}, LIVE), {}),
        ("migrate3", ("dconn",), {"params": {}, "flags": LIVE}),
        ("migrateToURI", ("qemu://b", LIVE, None, 0), {}),
        ("migrateToURI2", (), {"dconnuri": "qemu://b", "flags": LIVE}),
        ("migrateToURI2", (None, None, "<domain/>"), {}),
        ("migrateToURI3", ("qemu://b", {}, LIVE), {}),
        (
            "migrateToURI3",
            ("qemu://b", {}),
            {"flags": LIVE | libvirt.VIR_MIGRATE_POSTCOPY},
        ),
    ],
)
def test_call_without_our_flag_goes_to_libvirt_untouched(
    module: ModuleType, migrations: list, name: str, args: tuple, kwargs: dict
) -> None:
    patch.install(module)
    assert getattr(module.virDomain(), name)(*args, **kwargs) == (
        "libvirt",
        name,
        args,
        kwargs,
    )
    assert migrations == []


@pytest.mark.parametrize(
    "name, args, kwargs, dest, params, returned",
    [
        ("migrate", ("dconn", LIVE | OURS), {}, "dconn", {}, "the domain there"),
        (
            "migrate",
            ("dconn", LIVE | OURS, "web2", "tcp://b", 8),
            {},
            "dconn",
            {"destination_name": "web2", "migrate_uri": "tcp://b", "bandwidth": 8},
            "the domain there",
        ),
        (
            "migrate",
            (),
            {"dconn": "dconn", "flags": LIVE | OURS, "bandwidth": 8},
            "dconn",
            {"bandwidth": 8},
            "the domain there",
        ),
        (
            "migrate2",
            ("dconn", "<domain/>", LIVE | OURS, "web2", "tcp://b", 8),
            {},
            "dconn",
            {
                "destination_xml": "<domain/>",
                "destination_name": "web2",
                "migrate_uri": "tcp://b",
                "bandwidth": 8,
            },
            "the domain there",
        ),
        (
            "migrate3",
            ("dconn", {"bandwidth": 8, "bandwidth.postcopy": 4}, LIVE | OURS),
            {},
            "dconn",
            {"bandwidth": 8, "bandwidth.postcopy": 4},
            "the domain there",
        ),
        ("migrateToURI", ("qemu://b", LIVE | OURS, None, 0), {}, "qemu://b", {}, 0),
        (
            "migrateToURI",
            ("qemu://b", LIVE | OURS, "web2", 8),
            {},
            "qemu://b",
            {"destination_name": "web2", "bandwidth": 8},
            0,
        ),
        (
            "migrateToURI2",
            ("qemu://b", "tcp://b", "<domain/>", LIVE | OURS, "web2", 8),
            {},
            "qemu://b",
            {
                "migrate_uri": "tcp://b",
                "destination_xml": "<domain/>",
                "destination_name": "web2",
                "bandwidth": 8,
            },
            0,
        ),
        (
            "migrateToURI3",
            (),
            {"dconnuri": "qemu://b", "params": {"bandwidth": 8}, "flags": LIVE | OURS},
            "qemu://b",
            {"bandwidth": 8},
            0,
        ),
    ],
)
def test_call_with_our_flag_is_ours(
    module: ModuleType,
    migrations: list,
    name: str,
    args,
    kwargs,
    dest,
    params,
    returned,
) -> None:
    patch.install(module)
    dom = module.virDomain()
    assert getattr(dom, name)(*args, **kwargs) == returned
    assert migrations == [(dom, dest, LIVE | OURS, params)]


@pytest.mark.parametrize(
    "args, kwargs",
    [
        ((), {}),
        (("dconn", "live"), {}),
        (("dconn", LIVE, None, None, 0, "more"), {}),
        (("dconn",), {"flags": LIVE, "brand_new": 1}),
    ],
)
def test_call_that_we_cannot_read_is_left_to_libvirt(
    module: ModuleType, migrations: list, args: tuple, kwargs: dict
) -> None:
    patch.install(module)
    answer = module.virDomain().migrate(*args, **kwargs)
    assert answer == ("libvirt", "migrate", args, kwargs)
    assert migrations == []


@pytest.mark.parametrize(
    "error, number",
    [
        (UsageError("domain 'web1' is not running"), libvirt.VIR_ERR_INVALID_ARG),
        (NotSupportedError("too old"), libvirt.VIR_ERR_OPERATION_UNSUPPORTED),
        (StateError("another job is running"), libvirt.VIR_ERR_OPERATION_INVALID),
        (MigrationCancelled("undone"), libvirt.VIR_ERR_OPERATION_ABORTED),
        (PostcopyBroken("split", phase="broken"), libvirt.VIR_ERR_OPERATION_FAILED),
        (PostcopyError("unexpected"), libvirt.VIR_ERR_OPERATION_FAILED),
    ],
)
def test_all_that_fails_can_be_caught_as_libvirts(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, error: Exception, number: int
) -> None:
    def migrate(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(api, "migrate", migrate)
    patch.install(module)
    with pytest.raises(libvirt.libvirtError) as caught:
        module.virDomain().migrate3("dconn", {}, LIVE | OURS)
    assert isinstance(caught.value, type(error)) and str(caught.value) == str(error)
    assert caught.value.get_error_code() == number
    assert caught.value.get_error_message() == str(error)
    assert getattr(caught.value, "phase", None) == getattr(error, "phase", None)
    assert caught.value.__cause__ is error


def test_refusal_of_libvirts_is_passed_on_as_it_is(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refusal(LibvirtError("no"), refused(38, "no"))

    def migrate(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(api, "migrate", migrate)
    patch.install(module)
    with pytest.raises(LibvirtError) as caught:
        module.virDomain().migrate3("dconn", {}, LIVE | OURS)
    assert caught.value is error


def test_our_flag_without_a_destination_is_refused(
    module: ModuleType, migrations: list
) -> None:
    patch.install(module)
    with pytest.raises(UsageError, match="needs a destination"):
        module.virDomain().migrateToURI2(None, flags=OURS)
    assert migrations == []


def test_call_bound_before_uninstall_still_works(module: ModuleType) -> None:
    patch.install(module)
    bound = module.virDomain().migrate
    patch.uninstall(module)
    assert bound("dconn", LIVE)[0] == "libvirt"


@pytest.mark.parametrize("name", METHODS)
def test_our_reading_of_a_method_is_libvirts_own_signature(name: str) -> None:
    theirs = list(
        inspect.signature(getattr(libvirt.virDomain, name)).parameters.values()
    )[1:]
    ours = list(inspect.signature(patch._ADAPTERS[name]).parameters.values())
    assert [(p.name, p.default, p.kind) for p in ours] == [
        (p.name, p.default, p.kind) for p in theirs
    ]


# The real module, in a process of its own


def run(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.programs
def test_real_module_is_restored_exactly() -> None:
    run(
        "import threading, libvirt, libvirt_postcopy as postcopy\n"
        "before = dict(vars(libvirt)), dict(vars(libvirt.virDomain))\n"
        "for _ in range(3):\n"
        "    threads = [threading.Thread(target=postcopy.install, args=(libvirt,)) for _ in range(20)]\n"
        "    for each in threads: each.start()\n"
        "    for each in threads: each.join()\n"
        "    postcopy.install(libvirt)\n"
        "    assert libvirt.VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY == 1 << 30\n"
        "    assert (dict(vars(libvirt)), dict(vars(libvirt.virDomain))) != before\n"
        "    postcopy.uninstall(libvirt)\n"
        "    assert (dict(vars(libvirt)), dict(vars(libvirt.virDomain))) == before\n"
    )


@pytest.mark.programs
def test_program_of_the_series_reaches_libvirt() -> None:
    """The test driver refuses both ways, each in its own words."""
    run(
        "import libvirt, libvirt_postcopy as postcopy\n"
        "libvirt.registerErrorHandler(lambda context, error: None, None)\n"
        "postcopy.install(libvirt)\n"
        "connection = libvirt.open('test:///default')\n"
        "dom = connection.lookupByName('test')\n"
        "for call in (\n"
        "    lambda: dom.migrate3(connection, {}, libvirt.VIR_MIGRATE_LIVE),\n"
        "    lambda: dom.migrate3(connection, {}, libvirt.VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY),\n"
        "    lambda: libvirt.virDomainMigrateStartPostCopy(dom),\n"
        "    lambda: libvirt.virDomainMigrateStartPostCopy(dom, 0),\n"
        "):\n"
        "    try:\n"
        "        call()\n"
        "    except libvirt.libvirtError as error:\n"
        "        assert error.get_error_code() is not None, error\n"
        "    else:\n"
        "        raise AssertionError('not refused')\n"
        "try:\n"
        "    dom.migrate3(connection, {}, 'live')\n"
        "except TypeError:\n"
        "    pass\n"
    )
