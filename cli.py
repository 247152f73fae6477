"""The entry points of the commands; each command is defined in the package that does its work."""

from __future__ import annotations

import sys

try:
    from converter.command import convert, inspect
    from effdet_torch.command import detect
    from verify.command import verify
except KeyboardInterrupt:  # later ones are reported by the commands
    sys.exit("Error: interrupted")

__all__ = ["convert", "detect", "inspect", "verify"]
