"""cffi, which most of the check can do without."""

from __future__ import annotations

from typing import Any

__all__ = ["CURE", "NoCffi", "new_ffi"]


CURE = "pip install cffi"


class NoCffi(Exception):
    """There is no cffi that works; the text says why, and the cure.

    :ivar why: Without the cure.
    """

    def __init__(self, why: str) -> None:
        super().__init__(f"{why} ({CURE})")
        self.why = why


def new_ffi() -> Any:
    """Make cffi's ``FFI``.

    :raises NoCffi: If there is none; also where cffi can be imported, but not its C module or its parser.
    """
    try:
        from cffi import FFI

        return FFI()
    except Exception as error:  # a plain one where its two halves are of two releases
        raise NoCffi(" ".join(str(error).split())) from error
