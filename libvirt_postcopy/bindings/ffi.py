"""cffi, which most of the check can do without."""

from __future__ import annotations

from typing import Any

__all__ = ["NoCffi", "new_ffi"]


class NoCffi(Exception):
    """There is no cffi that works; the text says why, and the cure."""


def new_ffi() -> Any:
    """Make cffi's ``FFI``.

    :raises NoCffi: If there is none; also where cffi can be imported, but not its C module or its parser.
    """
    try:
        from cffi import FFI

        return FFI()
    except Exception as error:  # a plain one where its two halves are of two releases
        why = " ".join(str(error).split())
        raise NoCffi(f"{why} (pip install cffi)") from error
