"""Whether what Python says about libvirt is what the C library on this machine says.

A flag with another value, a function that is missing, a parameter whose type was guessed wrong: each shows only in the
middle of a migration otherwise.  :mod:`functions <libvirt_postcopy.bindings.functions>` and
:mod:`parameters <libvirt_postcopy.bindings.parameters>` hold what is relied on.  Three witnesses are heard:

- the library itself: its file (:mod:`elf <libvirt_postcopy.bindings.elf>`) and, loaded, its symbols
  (:mod:`library <libvirt_postcopy.bindings.library>`); no compiler and no headers are needed;
- libvirt-python: its names, and the table of parameter types inside its C module
  (:mod:`binding <libvirt_postcopy.bindings.binding>`);
- the headers, by way of the C compiler (:mod:`compiled <libvirt_postcopy.bindings.compiled>`), and libvirt's own
  description of its API (:mod:`description <libvirt_postcopy.bindings.description>`), where they are installed.

:mod:`call <libvirt_postcopy.bindings.call>` reaches functions that the library has and the binding has not.

Nothing here imports libvirt: who does, hands it over.
"""

from __future__ import annotations

from libvirt_postcopy.bindings.report import Finding, Path, Report, Row, Severity

__all__ = ["Finding", "Path", "Report", "Row", "Severity"]
