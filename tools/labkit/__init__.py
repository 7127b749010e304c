"""Several libvirt hosts on one machine: what ``tools/lab`` and the tests use."""

from .errors import LabError, NoRootError, NotUpError, ToolError
from .host import Host
from .lab import Lab

__all__ = ["Lab", "Host", "LabError", "NotUpError", "NoRootError", "ToolError"]
