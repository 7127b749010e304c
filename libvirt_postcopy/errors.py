"""What can go wrong, by what the caller can do next.

::

    PostcopyError
    ├── UsageError            wrong arguments; nothing was sent
    ├── NotSupportedError     this libvirt or QEMU cannot do it; nothing was sent
    ├── StateError            not now; nothing changed
    ├── LibvirtError          libvirt refused: .code .domain
    └── MigrationError        .phase .guest (where the guest is) .halves
        ├── MigrationCancelled    asked for by us; the guest runs on the source
        ├── MigrationFailed       before the switch; the guest runs on the source
        ├── PostcopyBroken        after it: the guest is split, neither half may be destroyed
        ├── MigrationUnknown      a host cannot be asked; treat the guest as if it were split
        └── GuestLost             the guest, or a half of it, is gone

Each says in one line what, where and the cure.  An error that stands for a refusal of libvirt can also
be caught as ``libvirt.libvirtError``: :func:`refusal` builds it from the ``libvirtError`` that was
caught, so this module never imports libvirt.
"""

from __future__ import annotations

from typing import Any, TypeVar

__all__ = [
    "PostcopyError",
    "UsageError",
    "NotSupportedError",
    "StateError",
    "LibvirtError",
    "MigrationError",
    "MigrationCancelled",
    "MigrationFailed",
    "PostcopyBroken",
    "MigrationUnknown",
    "GuestLost",
    "as_refusal",
    "refusal",
]


class PostcopyError(Exception):
    """Root of all errors of this package.

    :ivar what: What is wrong, one line.
    :ivar side: ``source``, ``destination``, ``client`` or empty where no side is meant.
    :ivar cure: What to do about it; may be empty.
    """

    def __init__(self, what: str, *, side: str = "", cure: str = "") -> None:
        # Not super(): in a refusal the next class is libvirtError, which reads the last error instead.
        Exception.__init__(self, what, side, cure)
        self.what = " ".join(what.split())
        self.side = side
        self.cure = cure

    def __str__(self) -> str:
        where = f"{self.side}: " if self.side else ""
        cure = f" ({self.cure})" if self.cure else ""
        return f"{where}{self.what}{cure}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what,), self.__dict__


class UsageError(PostcopyError):
    """Wrong arguments; nothing was sent."""


class NotSupportedError(PostcopyError):
    """This libvirt or QEMU cannot do what was asked; nothing was sent."""


class StateError(PostcopyError):
    """What was asked or seen does not fit the phase the migration is in; nothing changed."""


class LibvirtError(PostcopyError):
    """libvirt refused a call.

    :ivar code: Its ``VIR_ERR_*`` number, or None where libvirt gave none.
    :ivar domain: The part of libvirt that it comes from, a ``VIR_FROM_*`` number.
    """

    code: int | None = None
    domain: int | None = None


class MigrationError(PostcopyError):
    """A migration did not come to its end.

    :ivar guest: Where the guest is: ``source``, ``destination``, ``split``, ``lost`` or ``unknown``.
    :ivar phase: The phase in which it ended, a word of :class:`libvirt_postcopy.phases.Phase`.
    :ivar halves: What the last looks found on the source and on the destination once it was split, words of
        :class:`libvirt_postcopy.events.Half`.
    """

    guest = "source"
    halves: tuple[str, str] = ("unknown", "unknown")

    def __init__(
        self, what: str, *, side: str = "", cure: str = "", phase: str = ""
    ) -> None:
        super().__init__(what, side=side, cure=cure)
        self.phase = phase


class MigrationCancelled(MigrationError):
    """The migration was aborted as asked; the guest runs on the source."""


class MigrationFailed(MigrationError):
    """The migration failed before the switch; the guest is on the source, and runs unless it was stopped
    or shut down there."""


class PostcopyBroken(MigrationError):
    """The migration broke after the switch: the guest is split and neither half may be destroyed."""

    guest = "split"


class MigrationUnknown(MigrationError):
    """The call failed and a host cannot be asked, so the migration may still be going on."""

    guest = "unknown"


class GuestLost(MigrationError):
    """The guest's QEMU ended during pre-copy, or a half of it after the switch: what is left cannot run."""

    guest = "lost"


Error = TypeVar("Error", bound=PostcopyError)


_CATCHABLE: dict[tuple[type, type], type] = {}


def _catchable_as(ours: type[Error], theirs: type[Exception]) -> type[Error]:
    """Derive ``ours`` from ``libvirtError`` too, without running the latter's constructor.

    That constructor reads the thread's *last* error, which by now may be another one.
    """
    key = (ours, theirs)
    if key not in _CATCHABLE:
        body = {
            "__init__": ours.__init__,
            "__module__": ours.__module__,
            "__reduce__": lambda self: (
                _rebuild,
                (ours, theirs, self.what),
                self.__dict__,
            ),
        }
        _CATCHABLE[key] = type(ours.__name__, key, body)
    return _CATCHABLE[key]


def _rebuild(
    ours: type[PostcopyError], theirs: type[Exception], what: str
) -> PostcopyError:
    return _catchable_as(ours, theirs)(what)


def refusal(error: Error, cause: Exception) -> Error:
    """Make ``error`` catchable as the class of ``cause`` (a ``libvirtError``), and keep its parts.

    :param error: One of ours, as it would be raised without libvirt.
    :param cause: The ``libvirtError`` that libvirt raised.
    """
    made = _made_catchable(error, type(cause), getattr(cause, "err", None))
    made.__cause__ = cause
    return made


def as_refusal(error: Error, theirs: type[Exception], code: int) -> Error:
    """Make ``error``, for which libvirt has raised nothing, catchable as ``theirs`` (``libvirtError``).

    :param code: The ``VIR_ERR_*`` number that it is to have.
    """
    text = str(error)
    # As libvirt-python keeps it: code, domain, message, level, three texts, two numbers.
    err = (int(code), 0, text, 2, text, None, None, -1, -1)
    return _made_catchable(error, theirs, err)


def _made_catchable(error: Error, theirs: type[Exception], err: object) -> Error:
    made = _catchable_as(type(error), theirs)(error.what)
    made.__dict__.update(error.__dict__)
    made.__dict__["err"] = err
    return made
