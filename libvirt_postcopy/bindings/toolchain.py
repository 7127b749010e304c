"""The C compiler, libvirt's headers, and modules that cffi makes with them.

A module is made in a folder that only this user can enter, and is gone when it has been loaded.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from libvirt_postcopy.bindings.ffi import NoCffi, new_ffi

__all__ = [
    "INCLUDES",
    "CannotCompile",
    "Headers",
    "Source",
    "WrongSource",
    "ask_pkg_config",
    "build",
    "make",
    "read_headers",
    "working_ffi",
]

LOG = logging.getLogger("libvirt_postcopy.bindings")

INCLUDES = """\
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <libvirt/libvirt-qemu.h>
"""

_COMPILED_S = 120


class CannotCompile(Exception):
    """There is no compiler, or there are no headers; the text says which."""


class WrongSource(Exception):
    """The compiler works, with these headers too, but not on this source; the text is the compiler's."""


# Headers


@dataclass(frozen=True)
class Headers:
    """What libvirt's headers hold, before anything is compiled.

    :ivar version: As ``virConnectGetVersion`` writes it.
    :ivar words: All words, so that only what is there is asked for.
    :ivar strings: Macros that are texts.
    :ivar functions: What looks like a function of libvirt.
    """

    version: int
    words: frozenset[str]
    strings: Mapping[str, str]
    functions: frozenset[str]


_VERSION = re.compile(r"^#define LIBVIR_VERSION_NUMBER (\d+)", re.MULTILINE)
_WORD = re.compile(r"\b[A-Za-z_]\w+\b")
_STRING_MACRO = re.compile(r'^#define (VIR_\w+) "(.*)"', re.MULTILINE)
_FUNCTION = re.compile(r"\b(vir\w+)\s*\(")


def read_headers() -> Headers:
    """Let the preprocessor read them.

    :raises CannotCompile: If there is no compiler, or there are no headers.
    """
    compiler = _compiler()
    try:
        text = _run(
            [*compiler, *_libvirt_flags(), "-E", "-dD", "-x", "c", "-"], INCLUDES
        )
    except WrongSource as error:
        raise CannotCompile(
            f"libvirt's headers cannot be read: {error} (install libvirt-dev)"
        ) from error
    version = _VERSION.search(text)
    if version is None:
        raise CannotCompile("libvirt's headers do not tell their version")
    return Headers(
        int(version[1]),
        frozenset(_WORD.findall(text)),
        MappingProxyType(dict(_STRING_MACRO.findall(text))),
        frozenset(_FUNCTION.findall(text)),
    )


# Modules


@dataclass(frozen=True)
class Source:
    """What cffi makes a module of.

    :ivar declared: What Python is to see, in C as cffi reads it.
    :ivar text: C that follows libvirt's headers.
    """

    name: str
    declared: str
    text: str = ""


_NOTHING = Source("_libvirt_postcopy_nothing", "")


def build(source: Source, flags: Sequence[str] = ()) -> ModuleType:
    """Make a module and load it.

    :param flags: More of them for the compiler; those in ``CFLAGS`` are given too.
    :raises CannotCompile: If nothing can be made here, or loaded.
    :raises WrongSource: If this source is what is wrong.
    """
    with _folder() as folder:
        return _load(source.name, _make(source, folder, flags))


def make(source: Source) -> None:
    """Make a module only to see that it can be made.

    :raises CannotCompile: If nothing can be made here.
    :raises WrongSource: If this source is what is wrong.
    """
    with _folder() as folder:
        _make(source, folder)


@contextmanager
def _folder() -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="libvirt-postcopy-")
    except OSError as error:
        raise CannotCompile(f"{error.strerror} (set TMPDIR)") from error
    with folder:
        yield Path(folder.name)


def _make(source: Source, folder: Path, flags: Sequence[str] = ()) -> Path:
    try:
        return _compile(source, folder, flags)
    except WrongSource:
        _see_that_anything_compiles(folder, flags)
        raise


def _see_that_anything_compiles(folder: Path, flags: Sequence[str]) -> None:
    """A module that says nothing is wrong only where nothing can be made at all."""
    try:
        _compile(_NOTHING, folder, flags)
    except WrongSource as error:
        raise CannotCompile(str(error)) from error


def _compile(source: Source, folder: Path, flags: Sequence[str]) -> Path:
    text = folder / f"{source.name}.c"
    target = text.with_suffix(sysconfig.get_config_var("EXT_SUFFIX") or ".so")
    _write(source, text)
    _run(
        [
            *_compiler(),
            *_words_of("CFLAGS"),
            *flags,
            "-shared",
            "-fPIC",
            "-Werror=incompatible-pointer-types",
            "-Werror=int-conversion",
            "-Werror=implicit-function-declaration",
            *(f"-I{path}" for path in _python_headers()),
            *_libvirt_flags(),
            str(text),
            "-o",
            str(target),
            "-lvirt",
            "-lvirt-qemu",
        ]
    )
    return target


def _write(source: Source, path: Path) -> None:
    ffi = working_ffi()
    try:
        ffi.cdef(source.declared)
        ffi.set_source(source.name, INCLUDES + source.text)
        with redirect_stdout(io.StringIO()):  # some cffi say there what they do
            ffi.emit_c_code(str(path))
    except Exception as error:  # whatever cffi dislikes in it
        raise WrongSource(f"cffi: {' '.join(str(error).split())}") from error


def working_ffi() -> Any:
    """cffi's ``FFI``.

    :raises CannotCompile: If there is none.
    """
    try:
        return new_ffi()
    except NoCffi as error:
        raise CannotCompile(str(error)) from error


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CannotCompile(f"Python cannot load {path.name}")
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        # Headers of one libvirt, library of another; or nothing may be run from there.
        cure = " (set TMPDIR to a folder that is not mounted noexec)" if "failed to map segment" in str(error) else ""  # fmt: skip
        raise CannotCompile(f"{error}{cure}") from error
    return module


# Tools


def _compiler() -> list[str]:
    """The compiler that ``CC`` names, else the first that is there.

    :raises CannotCompile: If there is none.
    """
    for command in (_words_of("CC"), ["cc"], ["gcc"], ["clang"]):
        if command and shutil.which(command[0]):
            return command
    raise CannotCompile("there is no C compiler (install gcc)")


def _words_of(variable: str) -> list[str]:
    try:
        return shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        raise CannotCompile(f"{variable}: {error}") from error


def _python_headers() -> list[str]:
    paths = sysconfig.get_paths()
    folders = [paths["include"], paths["platinclude"]]
    if not any((Path(folder) / "Python.h").exists() for folder in folders):
        raise CannotCompile("there is no Python.h (install python3-dev)")
    return list(dict.fromkeys(folders))


def _libvirt_flags() -> list[str]:
    """Where pkg-config knows libvirt; nothing where it does not, for it may be where all is."""
    words = ask_pkg_config("--cflags", "--libs-only-L", "libvirt", "libvirt-qemu")
    return shlex.split(words)


def ask_pkg_config(*words: str) -> str:
    """What pkg-config answers; empty where it is not there or knows no libvirt."""
    try:
        return subprocess.run(
            ["pkg-config", *words],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_COMPILED_S,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        LOG.debug("pkg-config: %s", error)
        return ""


def _run(command: Sequence[str], text: str = "") -> str:
    """Run the compiler.

    :raises CannotCompile: If it does not run.
    :raises WrongSource: If it has objections; the first one.
    """
    try:
        done = subprocess.run(
            command,
            input=text,
            env={**os.environ, "LC_ALL": "C"},  # "error" in English
            capture_output=True,
            text=True,
            timeout=_COMPILED_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCompile(str(error)) from error
    if done.returncode:
        # Not every line with the word is one: "In file included from virterror.h".
        lines = done.stderr.splitlines()
        said = [line for line in lines if "error:" in line or "cannot find" in line]
        raise WrongSource(" ".join(said[:1]) or f"{command[0]} failed")
    return done.stdout
