"""This release's number, where every floor can have it at no cost."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
