"""The entry points of the commands, and what they set for their processes.

Each command is defined in the package that does its work.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from effdet_torch.terminal.command import Command
    from effdet_torch.train.request import OpenSource

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


try:
    require_own_packages()

    from converter.command import convert, inspect
    from converter.converted import converted_file
    from effdet_torch.commands.detect import detect
    from effdet_torch.commands.doctor import doctor
    from effdet_torch.commands.export import export
    from effdet_torch.commands.train import train
    from effdet_torch.terminal.command import VERSION, Group
    from verify.command import evaluate, verify
except KeyboardInterrupt:  # later ones are reported by the commands
    sys.exit("Error: interrupted")

__all__ = ["convert", "detect", "effdet", "export", "inspect", "train", "verify"]

VERBS = (convert, inspect, verify, detect, evaluate, export, train, doctor)
effdet = VERSION(
    Group(
        "effdet",
        commands={str(verb.name): verb for verb in VERBS},
        help="EfficientDet from TensorFlow to PyTorch: convert, verify, use. effdet-convert and the like are the same.",
    )
)


def hand_down(resolve: OpenSource, *commands: Command) -> None:
    """Give commands what opens a source: effdet-train starts from any, the others take official models by their names.

    Their package knows nothing of the converter.
    """
    for command in commands:
        command.context_settings["obj"] = resolve


hand_down(converted_file, train, detect, export, verify, evaluate)

# Threads of PyTorch that wait for work sleep. By default they spin, and where other processes need the cores, that took
# several times the CPU time of the work. OpenMP reads this when torch is loaded, which no import above does.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# At the end Python looks for cycles among all objects, and the modules of torch have a million: a fifth of the CPU time
# of a short run. Frozen objects are left out; their memory goes with the process.
atexit.register(gc.freeze)
