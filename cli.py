"""The entry points of the commands; each command is defined in the package that does its work."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent


def require_own_packages() -> None:
    """Stop if another package hides one of ours: `converter` and `verify` are names that others use too."""
    for name in ("converter", "effdet_torch", "mappings", "verify"):
        spec = find_spec(name)
        found = None if spec is None else next(iter(spec.submodule_search_locations or ()), spec.origin)
        if found is None or Path(found).resolve() != HERE / name:
            sys.exit(
                f"Error: Python finds {found} for {name!r}; expected effdet-convert's own, {HERE / name}. Rename or "
                "uninstall the other one, or install effdet-convert into an environment of its own (pipx, uv tool)"
            )


require_own_packages()

from converter.command import convert, inspect  # noqa: E402
from effdet_torch.command import detect  # noqa: E402
from verify.command import verify  # noqa: E402

__all__ = ["convert", "detect", "inspect", "verify"]
