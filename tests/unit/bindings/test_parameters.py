from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from libvirt_postcopy.bindings.parameters import (
    PARAMETERS,
    ParameterType,
    guess,
    misread,
    typed,
)
from libvirt_postcopy.constants import MigrateParam
from libvirt_postcopy.vir.binding import installed

INT = ParameterType.VIR_TYPED_PARAM_INT
ULLONG = ParameterType.VIR_TYPED_PARAM_ULLONG
STRING = ParameterType.VIR_TYPED_PARAM_STRING


def test_parameters_of_the_constants_are_all_there() -> None:
    ours = {n: v for n, v in vars(MigrateParam).items() if n.startswith("VIR_")}
    known = {each.name: each.key for each in PARAMETERS.values()}
    assert ours.items() <= known.items()


AS_A_DICT = """
import sys, libvirt
dom = libvirt.open("test:///default").lookupByName("test")
dom.migrateToURI3("qemu:///system", eval(sys.argv[1]), 0)
"""


def through_the_binding(
    params: dict[str, Any], shim: Path, given: Path
) -> dict[str, int]:
    """The types in which the C library gets them from libvirt-python."""
    environment = {**os.environ, "SHIM_GIVEN": str(given)}
    environment["LD_PRELOAD"] = ":".join(
        filter(None, [os.environ.get("LD_PRELOAD"), str(shim)])
    )
    subprocess.run(
        [sys.executable, "-c", AS_A_DICT, repr(params)],
        env=environment,
        check=True,
        timeout=60,
    )
    lines = (line.split(" ") for line in given.read_text().splitlines())
    return {line[0]: int(line[1]) for line in lines}


@pytest.mark.programs
def test_types_are_those_that_the_library_gets_from_the_binding(
    shim_file: Path, tmp_path: Path
) -> None:
    """The table inside libvirt-python, and what it guesses, against what it does."""
    params = {key: "" if p.type is STRING else 1 for key, p in PARAMETERS.items()}
    got = through_the_binding(params, shim_file, tmp_path / "given")
    hints = installed().hints()
    assert hints and len(hints) > 15
    assert got == {key: hints.get(key, guess(value)) for key, value in params.items()}
    wrong = {key for key, value in got.items() if value != PARAMETERS[key].type}
    assert set(misread(params, hints)) == wrong


@pytest.mark.programs
def test_guesses_are_those_of_the_binding(shim_file: Path, tmp_path: Path) -> None:
    values = {"a": 1, "b": -1, "c": True, "d": 0.5, "e": "text"}
    got = through_the_binding(values, shim_file, tmp_path / "given")
    assert got == {key: guess(value) for key, value in values.items()}
    assert guess(None) is None


def test_number_without_a_hint_is_misread_where_an_int_is_expected() -> None:
    params = {"compression.zlib.level": 3, "bandwidth": 5, "unknown": 1}
    assert misread(params, {}) == misread(params, None) == ("compression.zlib.level",)
    assert misread(params, {"compression.zlib.level": INT}) == ()
    assert misread({"migrate_disks": ["vda", "vdb"]}, {}) == ()


def test_parameters_are_written_in_the_type_that_is_expected() -> None:
    assert typed(
        {
            "compression.zlib.level": 3,
            "bandwidth": 5,
            "migrate_disks": ["vda", "vdb"],
            "new": -1,
        }
    ) == [
        ("compression.zlib.level", INT, 3),
        ("bandwidth", ULLONG, 5),
        ("migrate_disks", STRING, "vda"),
        ("migrate_disks", STRING, "vdb"),
        ("new", ParameterType.VIR_TYPED_PARAM_LLONG, -1),
    ]


@pytest.mark.parametrize(
    "params, why",
    [
        ({"": 1}, "no name of a parameter"),
        ({5: 1}, "5 is no name of a parameter"),
        ({"x" * 80: 1}, "no name of a parameter"),
        ({"a\0b": 1}, "no name of a parameter"),
        ({"bandwidth": "fast"}, "is to be a number"),
        ({"bandwidth": -1}, "not between 0 and"),
        ({"bandwidth": 1 << 64}, "not between 0 and"),
        ({"disks_port": 1 << 31}, "disks_port: 2147483648 is not between"),
        ({"disks_port": 1.5}, "is to be a number"),
        ({"migrate_uri": 5}, "is to be a text"),
        ({"migrate_uri": "tcp://a\0b"}, "NUL"),
        ({"new": None}, "new: not None"),
        ({"new": 1 << 70}, "not between"),
    ],
)
def test_parameter_that_cannot_be_written(params: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        typed(params)
