"""What can go wrong in the lab, in words for the person at the terminal."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["LabError", "NoRootError", "NotUpError", "ToolError"]


class LabError(Exception):
    """The lab cannot do what was asked; the text says what, where and the cure.

    ::

        LabError
        ├── NotUpError    no lab is up in this state folder
        ├── NoRootError   this needs root, or the lab that root made
        └── ToolError     a command that the lab runs has failed: .argv .why
    """


class NotUpError(LabError):
    """No lab is up in this state folder."""


class NoRootError(LabError):
    """This needs root, or the lab that root made."""


class ToolError(LabError):
    """A command that the lab runs has failed, is missing or has hung."""

    def __init__(self, argv: Sequence[str], why: str) -> None:
        super().__init__(argv, why)
        self.argv = list(argv)
        self.why = why.removeprefix("error: ")

    def __str__(self) -> str:
        return f"{' '.join(self.argv)}: {self.why}"
