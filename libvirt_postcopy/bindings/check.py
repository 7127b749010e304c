"""The check as a whole: hear the witnesses, then judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from libvirt_postcopy.bindings import judge
from libvirt_postcopy.bindings.binding import Binding
from libvirt_postcopy.bindings.description import beside, read_description
from libvirt_postcopy.bindings.ffi import CURE, NoCffi, new_ffi
from libvirt_postcopy.bindings.library import Library, loaded, read
from libvirt_postcopy.bindings.report import Finding, Report, Severity
from libvirt_postcopy.bindings.symbols import LIBVIRT, QEMU, version_number
from libvirt_postcopy.features import Path as Way
from libvirt_postcopy.features import version_text

__all__ = ["Compile", "disagreement", "examine"]

Compile = Callable[[], "tuple[str, list[Finding]]"]
"""What has become of the check by the compiler, and what it found."""


def examine(
    binding: Binding,
    *,
    library: str = "",
    qemu_library: str = "",
    description: Path | None = None,
    compile: Compile | None = None,
    is_quick: bool = False,
) -> Report:
    """Compare what is said of libvirt: by this package, by libvirt-python, by the library, by its headers.

    :param library: Look at this file instead of the ``libvirt.so.0`` that is loaded; it is read, not loaded.
    :param qemu_library: The same for ``libvirt-qemu.so.0``.
    :param description: libvirt's description of its API; what is not there is not asked.  That of the functions for QEMU is
        looked for beside it.
    :param compile: Asks the compiler too.
    :param is_quick: Take a library's file at its word, and do not ask the loader.
    """
    files = {LIBVIRT: library, QEMU: qemu_library}
    found = {
        soname: (
            read(soname, file) if file else loaded(soname, is_looked_up=not is_quick)
        )
        for soname, file in files.items()
    }
    version = (_release(found[LIBVIRT]) if library else 0) or binding.libvirt
    rows, findings = judge.symbols(found, binding, version)
    parameters, more = judge.parameters(binding, version)
    compiled, by_compiler = ("not asked for", list[Finding]())
    if compile is not None:
        compiled, by_compiler = compile()
    return Report(
        libvirt=version_text(version),
        files=tuple(_files(found, binding)),
        binding=binding.version,
        newest=binding.newest(),
        rows=tuple(rows),
        parameters=tuple(parameters),
        findings=(
            *judge.libraries(found.values()),
            *(() if is_quick else _without_cffi()),
            *findings,
            *judge.unknown_functions(found.values(), version),
            *more,
            *judge.against_binding(binding),
            *judge.age(binding, found[LIBVIRT]),
            *judge.age(binding, found[QEMU]),
            *_described(description, binding.libvirt),
            *by_compiler,
        ),
        compiled=compiled,
    )


def _release(library: Library) -> int:
    """Of a library that is read, not loaded; 0 if it does not tell."""
    release = library.release()
    return version_number(release) if release else 0


def _files(found: dict[str, Library], binding: Binding) -> list[tuple[str, str]]:
    files = [(soname, ", ".join(each.files)) for soname, each in found.items()]
    return [*files, ("libvirtmod", binding.file)]


def _without_cffi() -> Iterator[Finding]:
    try:
        new_ffi()
    except NoCffi as error:
        text = f"nothing can be called past libvirt-python: {error.why}"
        yield Finding(Severity.WARNING, "cffi", text, CURE)


def _described(path: Path | None, version: int) -> list[Finding]:
    if path is None or not path.exists():
        return []
    try:
        described = read_description(*beside(path))
    except (OSError, ValueError) as error:
        return [Finding(Severity.WARNING, "libvirt-api.xml", str(error))]
    if LIBVIRT not in described.libraries:
        text = f"{path}: it does not describe {LIBVIRT}"
        return [Finding(Severity.WARNING, "libvirt-api.xml", text)]
    return list(judge.against_description(described, described.version or version))


def disagreement(binding: Binding) -> str:
    """What breaks our own migrations, in one line; empty if nothing does.

    Only what is loaded is looked at: no headers, no compiler.  Typed parameters that the binding would pass wrong are
    passed past it where that can be done (:mod:`libvirt_postcopy.bindings.call`).
    """
    report = examine(binding, is_quick=True)
    passed_right = {row.key for row in report.parameters if row.path is Way.CFFI}
    errors = [each for each in report.errors if each.what not in passed_right]
    if not errors:
        return ""
    first, *more = errors
    others = f", and {len(more)} more" if more else ""
    return f"{first.what}: {first.evidence}{others}"
