"""What the C compiler says: the values of all names, each prototype, the layout of structures.

cffi writes a module in which every value is left open; the compiler fills them in from libvirt's headers.  The types of
functions it compares itself, exactly (``__builtin_types_compatible_p`` of gcc and clang): a cast would hide a wrong one.

The module is made in a folder that only this user can enter, and is gone when it has been loaded.
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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from libvirt_postcopy.bindings.binding import Binding
from libvirt_postcopy.bindings.names import ours
from libvirt_postcopy.bindings.report import Finding, Severity
from libvirt_postcopy.bindings.symbols import (
    SYMBOLS,
    TYPES,
    Symbol,
    version_number,
)
from libvirt_postcopy.features import version_text

__all__ = ["CannotCompile", "build", "check_compiled"]

LOG = logging.getLogger("libvirt_postcopy.bindings")

_MODULE = "_libvirt_postcopy_headers"
_COMPILED_S = 120

_INCLUDES = """\
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <libvirt/libvirt-qemu.h>
"""

_STRUCTURES = {
    "virTypedParameter": ("field", "type", "value"),
    "virDomainJobInfo": tuple(
        re.findall(r"(\w+);", TYPES[TYPES.index("_virDomainJobInfo") :])[:-1]
    ),
}
"""Structures, and their fields that are compared one by one."""


class CannotCompile(Exception):
    """There is no compiler, or no headers; the text says which."""


def check_compiled(binding: Binding) -> tuple[str, list[Finding]]:
    """Ask the compiler, and compare.

    :return: What has become of it, and what was found.
    """
    try:
        module = build()
    except CannotCompile as error:
        return f"not asked: {error}", []
    headers = int(module.lib.postcopy_version)
    found = list(_compare(module, binding, headers))
    return f"headers of libvirt {version_text(headers)}", found


# Making it


def build(flags: Sequence[str] = ()) -> ModuleType:
    """Compile the module and load it.

    :param flags: More of them for the compiler; those in ``CFLAGS`` are given too.
    :raises CannotCompile: If it cannot be made.
    """
    compiler = _compiler()
    names = _names_in_headers(compiler)
    with tempfile.TemporaryDirectory(prefix="libvirt-postcopy-") as folder:
        source = Path(folder) / f"{_MODULE}.c"
        target = source.with_suffix(sysconfig.get_config_var("EXT_SUFFIX") or ".so")
        _write(source, names)
        command = [
            *compiler,
            *shlex.split(os.environ.get("CFLAGS", "")),
            *flags,
            "-shared",
            "-fPIC",
            "-Werror=incompatible-pointer-types",
            "-Werror=int-conversion",
            *(f"-I{path}" for path in _python_headers()),
            *_libvirt_flags(),
            str(source),
            "-o",
            str(target),
            "-lvirt",
            "-lvirt-qemu",
        ]
        _run(command)
        return _load(target)


def _compiler() -> list[str]:
    """The compiler, as this Python was built with or as ``CC`` says.

    :raises CannotCompile: If there is none.
    """
    for words in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        command = shlex.split(words)
        if command and shutil.which(command[0]):
            return command
    raise CannotCompile("there is no C compiler (install gcc)")


def _python_headers() -> list[str]:
    paths = sysconfig.get_paths()
    folders = [paths["include"], paths["platinclude"]]
    if not any((Path(folder) / "Python.h").exists() for folder in folders):
        raise CannotCompile("there is no Python.h (install python3-dev)")
    return list(dict.fromkeys(folders))


def _libvirt_flags() -> list[str]:
    """Where pkg-config knows libvirt; nothing where it does not, for it may be where all is."""
    try:
        words = subprocess.run(
            ["pkg-config", "--cflags", "--libs-only-L", "libvirt", "libvirt-qemu"],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_COMPILED_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        LOG.debug("pkg-config: %s", error)
        return []
    return shlex.split(words)


def _run(command: Sequence[str], text: str = "") -> str:
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=_COMPILED_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCompile(str(error)) from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line]
        raise CannotCompile(" ".join(said[:1]) or f"{command[0]} failed")
    return done.stdout


_WORD = re.compile(r"\b[A-Za-z_]\w+\b")
_STRING_MACRO = re.compile(r'^#define (VIR_\w+) "', re.MULTILINE)


def _names_in_headers(compiler: Sequence[str]) -> frozenset[str]:
    """All words in the headers, so that only what is there is asked for.

    :raises CannotCompile: If there are no headers.
    """
    if not shutil.which(compiler[0]):
        raise CannotCompile("there is no C compiler (install gcc)")
    try:
        text = _run(
            [*compiler, *_libvirt_flags(), "-E", "-dD", "-x", "c", "-"], _INCLUDES
        )
    except CannotCompile as error:
        raise CannotCompile(
            f"libvirt's headers cannot be read: {error} (install libvirt-dev)"
        ) from error
    return frozenset(_WORD.findall(text))


def _write(source: Path, names: frozenset[str]) -> None:
    from cffi import FFI

    mine, functions = ours(), _functions(names)
    asked = sorted(names & (mine.numbers.keys() | _relevant(names)))
    texts = sorted(names & mine.strings.keys())
    ffi = FFI()
    ffi.cdef("static const int postcopy_version;")
    ffi.cdef("".join(f"static const int {name};\n" for name in asked))
    ffi.cdef("".join(f"static char *const {name};\n" for name in texts))
    ffi.cdef("".join(f"static const int {_same(each)};\n" for each in functions))
    ffi.cdef(_open_structures())
    ffi.cdef("".join(f"{each.prototype};\n" for each in _callable(functions)))
    ffi.set_source(_MODULE, "\n".join(_preamble(functions)))
    try:
        with redirect_stdout(io.StringIO()):  # some cffi say there what they do
            ffi.emit_c_code(str(source))
    except Exception as error:  # whatever cffi dislikes, nothing has been checked
        raise CannotCompile(f"cffi: {error}") from error


def _functions(names: frozenset[str]) -> list[Symbol]:
    return [each for each in SYMBOLS.values() if each.name in names]


def _callable(functions: Iterable[Symbol]) -> Iterator[Symbol]:
    """Functions whose types are all declared here, so that cffi can make a call of them."""
    known = {"virDomainPtr", "virConnectPtr", "virTypedParameterPtr"}
    for each in functions:
        if set(re.findall(r"\bvir\w+(?:Ptr|Callback)\b", each.prototype)) <= known:
            yield each


def _relevant(names: frozenset[str]) -> frozenset[str]:
    """Numbers that we do not have, and that are to be looked at for that reason."""
    flags = {
        name
        for name in names
        if name.startswith("VIR_MIGRATE_") and not name.startswith("VIR_MIGRATE_PARAM_")
    }
    postcopy = {name for name in names if _is_postcopy(name)}
    return frozenset(flags | postcopy) - ours().strings.keys()


def _is_postcopy(name: str) -> bool:
    is_text = name.startswith(("VIR_MIGRATE_PARAM_", "VIR_DOMAIN_JOB_MEMORY_"))
    return name.startswith("VIR_") and "POSTCOPY" in name and not is_text


def _same(symbol: Symbol) -> str:
    return f"postcopy_same_{symbol.name}"


def _preamble(functions: Iterable[Symbol]) -> Iterator[str]:
    yield _INCLUDES
    yield "static const int postcopy_version = LIBVIR_VERSION_NUMBER;"
    for each in functions:
        type = each.prototype.replace(f"{each.name}(", "(", 1)
        yield (
            f"static const int {_same(each)} ="
            f" __builtin_types_compatible_p(__typeof__({each.name}), {type});"
        )


def _open_structures() -> str:
    """:data:`TYPES` with each structure left open, so that the compiler lays it out."""
    return re.sub(r"\n\} (vir\w+);", r"\n    ...;\n} \1;", TYPES)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    if spec is None or spec.loader is None:
        raise CannotCompile(f"Python cannot load {path.name}")
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:  # headers of one libvirt, library of another
        raise CannotCompile(str(error)) from error
    return module


# Comparing


def _compare(module: Any, binding: Binding, headers: int) -> Iterator[Finding]:
    yield from _values(module, binding, headers)
    yield from _functions_differ(module, headers)
    yield from _layout(module)
    if headers // 1000 != binding.libvirt // 1000:
        yield Finding(
            Severity.NOTE,
            "headers",
            f"they are of libvirt {version_text(headers)}, loaded is {version_text(binding.libvirt)}",
        )


def _values(module: Any, binding: Binding, headers: int) -> Iterator[Finding]:
    mine, lib = ours(), module.lib
    theirs: dict[str, object] = {**binding.numbers(), **binding.strings()}
    for name, value in {**mine.numbers, **mine.strings}.items():
        if not hasattr(lib, name):
            since = mine.since.get(name)
            if since is None or version_number(since) <= headers:
                yield _error(name, "there is no such name in the headers")
            continue
        compiled = _value(module, name)
        if compiled != value:
            yield _error(
                name, f"the compiler says {compiled!r}, this package {value!r}"
            )
        if name in theirs and theirs[name] != compiled:
            yield _error(
                name, f"the compiler says {compiled!r}, libvirt-python {theirs[name]!r}"
            )
    for name in dir(lib):
        if _is_postcopy(name) and not mine.has(name):
            yield Finding(
                Severity.WARNING,
                name,
                f"the headers have this name for post-copy ({getattr(lib, name)}), this package has not",
            )
    yield from _taken(lib)


def _taken(lib: Any) -> Iterator[Finding]:
    from libvirt_postcopy.constants import CLIENT_SIDE_FLAGS

    for name in dir(lib):
        is_flag = name.startswith("VIR_MIGRATE_") and "_PARAM_" not in name
        if is_flag and getattr(lib, name) & int(CLIENT_SIDE_FLAGS):
            yield _error(
                "VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY", f"its bit is {name}'s in the headers"
            )  # fmt: skip


def _value(module: Any, name: str) -> int | str:
    value = getattr(module.lib, name)
    return value if isinstance(value, int) else module.ffi.string(value).decode()


def _functions_differ(module: Any, headers: int) -> Iterator[Finding]:
    for symbol in SYMBOLS.values():
        same = getattr(module.lib, _same(symbol), None)
        if same is None:
            if version_number(symbol.since) <= headers:
                yield _error(symbol.name, "the headers declare no such function")
        elif not same:
            yield _error(
                symbol.name,
                f"the headers declare it otherwise than: {symbol.prototype}",
            )


def _layout(module: Any) -> Iterator[Finding]:
    """Structures as they are declared for calls without a compiler, against the compiler's own layout."""
    from cffi import FFI

    declared = FFI()
    declared.cdef(TYPES)
    for name, fields in _STRUCTURES.items():
        sizes = [each.sizeof(name) for each in (declared, module.ffi)]
        if sizes[0] != sizes[1]:
            yield _error(
                name, f"the compiler says {sizes[1]} bytes, this package {sizes[0]}"
            )
        for field in fields:
            places = [each.offsetof(name, field) for each in (declared, module.ffi)]
            if places[0] != places[1]:
                yield _error(
                    f"{name}.{field}",
                    f"the compiler says byte {places[1]}, this package {places[0]}",
                )


def _error(name: str, evidence: str) -> Finding:
    return Finding(
        Severity.ERROR, name, evidence, "report it, with the versions shown above"
    )
