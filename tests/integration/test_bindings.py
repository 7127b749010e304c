"""Calls past libvirt-python, and what real daemons say of typed parameters."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import libvirt
import pytest
from observers import Awaited, wait_until_pages_flow

import libvirt_postcopy as postcopy
import libvirt_postcopy.vir.calls as vir
from libvirt_postcopy.actions import Resume
from libvirt_postcopy.bindings import call
from libvirt_postcopy.bindings.parameters import PARAMETERS, ParameterType, typed
from libvirt_postcopy.bindings.symbols import version_number
from libvirt_postcopy.constants import ErrorNumber, MigrateFlags
from libvirt_postcopy.events import Resumed, Side
from libvirt_postcopy.features import Path
from libvirt_postcopy.vir import fallback
from scenes.stage import Stage

Check = Callable[[], None]
URI = "qemu+tcp://b/system"
SLOW = {"bandwidth.postcopy": 16}
PEER2PEER = int(MigrateFlags.VIR_MIGRATE_LIVE | MigrateFlags.VIR_MIGRATE_PEER2PEER)


def counted(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> list[tuple[Any, ...]]:
    """The calls of a function, which goes on working."""
    made: list[tuple[Any, ...]] = []
    original = getattr(owner, name)

    def count(*args: Any) -> Any:
        made.append(args)
        return original(*args)

    monkeypatch.setattr(owner, name, count)
    return made


def test_binding_without_the_switch(
    stage: Stage,
    moved: Check,
    monkeypatch: pytest.MonkeyPatch,
    patience: dict[str, int],
) -> None:
    dom = stage.start()
    monkeypatch.delattr(libvirt.virDomain, "migrateStartPostCopy")
    made = counted(monkeypatch, call, "start_postcopy")
    result = postcopy.migrate(dom, URI, params=patience)
    moved()
    assert len(made) == 1
    assert result.switch is not None and result.switch.attempts == 1


def test_refused_switch_past_the_binding_is_the_bindings_own_error(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    dom = stage.start()
    with pytest.raises(libvirt.libvirtError) as through:
        vir.start_postcopy(dom)
    monkeypatch.delattr(libvirt.virDomain, "migrateStartPostCopy")
    with pytest.raises(libvirt.libvirtError) as past:
        vir.start_postcopy(dom)
    assert str(past.value) == str(through.value)
    assert past.value.get_error_code() == ErrorNumber.VIR_ERR_OPERATION_INVALID


def test_binding_without_the_pause(
    stage: Stage, moved: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration that is broken past the binding is resumed."""
    dom = stage.start()
    split = Awaited(Resumed, lambda seen: seen.side is Side.DESTINATION)
    job = postcopy.start(dom, URI, policy="after:0", params=SLOW, observer=split)
    split.wait()
    wait_until_pages_flow(job)
    monkeypatch.delattr(libvirt.virDomain, "abortJobFlags")
    there = stage.connection("a").lookupByName(stage.name)
    made = counted(monkeypatch, call, "abort_job_flags")
    vir.pause_postcopy(there)
    job.wait(90)
    moved()
    assert made[0][0] is there
    assert split.of(Resume), "nothing was broken"


@pytest.mark.parametrize("is_managed", [False, True], ids=["peer to peer", "managed"])
def test_parameters_past_the_binding(
    stage: Stage, moved: Check, monkeypatch: pytest.MonkeyPatch, is_managed: bool
) -> None:
    """With a binding that knows no types, an INT arrives as one all the same."""
    dom = stage.start()
    monkeypatch.setattr(fallback, "_hints", dict)
    converge = int(MigrateFlags.VIR_MIGRATE_AUTO_CONVERGE | MigrateFlags.VIR_MIGRATE_UNSAFE)  # fmt: skip
    params = {"auto_converge.initial": 30, "migrate_uri": "tcp://b", "bandwidth": 30}
    assert fallback.path(fallback.MIGRATE, params) is Path.CFFI
    if is_managed:  # not live: the guest stands still meanwhile
        vir.migrate3(dom, libvirt.open(URI), params, converge)
    else:
        flags = converge | int(MigrateFlags.VIR_MIGRATE_PEER2PEER)
        vir.migrate_to_uri3(dom, URI, params, flags)
    moved()


def test_migration_of_ours_passes_them_right(
    stage: Stage, moved: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    dom = stage.start()
    monkeypatch.setattr(fallback, "_hints", dict)
    made = counted(monkeypatch, call, "migrate_to_uri3")
    flags = int(MigrateFlags.VIR_MIGRATE_AUTO_CONVERGE)
    result = postcopy.migrate(
        dom, URI, flags=flags, params={"auto_converge.initial": 30}
    )
    moved()
    assert len(made) == 1 and result.switch is not None


# What the source's daemon says of each parameter


def refusal(dom: libvirt.virDomain, given: list[tuple[str, ParameterType, Any]]) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(call, "typed", lambda params: given)
        with pytest.raises(libvirt.libvirtError) as caught:
            call.migrate_to_uri3(dom, URI, {}, PEER2PEER, libvirt.libvirtError)
    return str(caught.value)


TYPES = {each.word.lower() for each in ParameterType}
VALUES = {ParameterType.VIR_TYPED_PARAM_STRING: "x"}


def test_types_are_those_that_the_daemon_expects(stage: Stage) -> None:
    dom = stage.start()
    version = dom.connect().getLibVersion()
    wrong = ParameterType.VIR_TYPED_PARAM_DOUBLE
    for key, parameter in PARAMETERS.items():
        said = refusal(dom, [(key, wrong, 0.5)])
        if version < version_number(parameter.since):
            assert f"parameter '{key}' not supported" in said
        else:
            # libvirt 11.3 and 12.8 swap the two for some.
            assert f"parameter '{key}'" in said
            named = TYPES.intersection(re.findall("'([a-z]+)'", said))
            assert named == {"double", parameter.type.word.lower()}, said


def test_all_types_are_accepted_together(stage: Stage) -> None:
    """A parameter that comes last and that nobody knows keeps the migration from being started."""
    dom = stage.start()
    version = dom.connect().getLibVersion()
    params = {
        key: VALUES.get(each.type, 1)
        for key, each in PARAMETERS.items()
        if version >= version_number(each.since)
    }
    assert len(params) > 15
    said = refusal(dom, typed({**params, "zzz": 1}))
    assert said.endswith("parameter 'zzz' not supported")
