"""What can go wrong, by who can cure it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ReleasesError", "UnknownRelease", "NotCached", "MachineError", "FetchError"]

PROGRAM = "tools/qemu-versions"


class ReleasesError(Exception):
    """Base of all; ``str()`` is one line for the user."""


class UnknownRelease(ReleasesError):
    """No release, known or cached, goes by that name."""

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(name, known)
        self.name = name
        self.known = known

    def __str__(self) -> str:
        return (
            f"{self.name}: no such release; known are {', '.join(self.known)} and the versions in them "
            f"({PROGRAM} list); for another Debian suite: {PROGRAM} fetch --suite NAME"
        )


class NotCached(ReleasesError):
    """The release is known but was not fetched."""

    def __init__(self, name: str, *, command: str) -> None:
        super().__init__(name, command)
        self.name = name
        self.command = command

    def __str__(self) -> str:
        return (
            f"{self.name} is not in the cache; fetch it with: {PROGRAM} {self.command}"
        )


class MachineError(ReleasesError):
    """This machine lacks something that a fetch needs; the text names the cure."""


class FetchError(ReleasesError):
    """A fetch failed; nothing of it is in the cache."""

    def __init__(self, release: str, what: str, *, log: Path | None = None) -> None:
        super().__init__(release, what)
        self.release = release
        self.what = what
        self.log = log

    def __str__(self) -> str:
        log = f" (log: {self.log})" if self.log else ""
        return f"fetching {self.release} failed: {self.what}{log}"


class Interrupted(ReleasesError):
    """The user, or who ended the session, stopped a fetch; nothing of it is in the cache."""

    def __init__(self, release: str) -> None:
        super().__init__(release)
        self.release = release

    def __str__(self) -> str:
        return f"fetching {self.release} was interrupted; nothing of it is left"
