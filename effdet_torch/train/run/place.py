"""Where a run goes."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

from effdet_torch.errors import OverwriteError, UsageError
from effdet_torch.outputs.paths import is_folder

DEFAULT = Path("runs") / "train"
BEST, LAST = "best.pth", "last.pth"
STATE_FILE = "state.pt"  # what --resume needs; a run that ended before its first one cannot be continued
LABELLED = "samples_data.png"  # all that --check-data leaves: the training may follow in the same folder


def choose_folder(out: Path | None) -> Path:
    """Return the folder of a new run: `out`, or the first of runs/train, runs/train2, ... that does not exist.

    Raises:
        UsageError: `out` is None, and torchrun started several processes, which may choose different folders.
        OverwriteError: `out` holds more than the picture of --check-data.
    """
    if out is None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UsageError("--out is missing; with several processes it must be named, so that all use the same one")
        names = (DEFAULT.name + ("" if number == 1 else str(number)) for number in count(1))
        return next(folder for folder in map(DEFAULT.with_name, names) if not folder.exists())
    is_first = os.environ.get("RANK", "0") == "0"  # it may have begun to write when the others get here
    if is_first and is_folder(out) and any(path.name != LABELLED for path in out.iterdir()):
        what = "holds a run: pass --resume to continue it, or" if (out / STATE_FILE).exists() else "is not empty:"
        raise OverwriteError(f"--out {out} {what} choose another folder")
    return out


def restart(out: Path) -> str:
    """Return how to start again without the state of a run: from the weights that it has saved, if there are any."""
    files = [str(out / name) for name in (LAST, BEST) if (out / name).is_file()]
    return f"start again from {' or '.join(files)} (--from), in another folder" if files else "start again"
