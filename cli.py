"""The entry points of the commands; each command is defined in the package that does its work."""

from __future__ import annotations

from converter.command import convert, inspect
from effdet_torch.command import detect
from verify.command import verify

__all__ = ["convert", "detect", "inspect", "verify"]
