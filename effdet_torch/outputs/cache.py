"""The folder for what can be fetched or made again."""

from __future__ import annotations

import os
from pathlib import Path

from effdet_torch.errors import EffdetError

CACHE_VARIABLE = "EFFDET_CACHE"


def cache_folder() -> Path:
    """Return `$EFFDET_CACHE`, else `$XDG_CACHE_HOME/effdet-convert`, else `~/.cache/effdet-convert`.

    Raises:
        EffdetError: The user has no home folder.
    """
    try:
        if named := os.environ.get(CACHE_VARIABLE):
            return Path(named).expanduser()
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (base if base.is_absolute() else Path.home() / ".cache") / "effdet-convert"
    except RuntimeError as error:
        raise EffdetError(f"no home folder for the cache; set {CACHE_VARIABLE} to a folder") from error
