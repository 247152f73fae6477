"""The entry points of the commands, and what they set for their processes.

Each command is defined in the package that does its work.
"""

from __future__ import annotations

import atexit
import gc
import os

from converter.command import convert, inspect
from effdet_torch.command import detect
from verify.command import verify

__all__ = ["convert", "detect", "inspect", "verify"]

# Threads of PyTorch that wait for work sleep. By default they spin, and where other processes need the cores, that took
# several times the CPU time of the work. OpenMP reads this when torch is loaded, which no import above does.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# At the end Python looks for cycles among all objects, and the modules of torch have a million: a fifth of the CPU time
# of a short run. Frozen objects are left out; their memory goes with the process.
atexit.register(gc.freeze)
