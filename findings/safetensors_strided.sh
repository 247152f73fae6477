#!/usr/bin/env bash
# safetensors writes a NumPy array that is not C-contiguous with its values in the wrong places, without a word.
#
# Expected: save_file({"x": a.T}) and load_file give a.T back, or save_file refuses the array.
# Seen (safetensors 0.8.0, NumPy 2.4.6; a = [[0, 1, 2], [3, 4, 5]]):
#   saved                           loaded
#   a.T                             [[0, 1], [2, 3], [4, 5]]     shape of a.T, values of a in a's order
#   np.asfortranarray(a)            [[0, 3, 1], [4, 2, 5]]       the bytes in memory order
#   np.ascontiguousarray(a.T)       [[0, 3], [1, 4], [2, 5]]     right
#   3 x 3 kernel, HWIO -> OIHW      99.8 % of the values are wrong
# Why it matters: porting weights from TensorFlow is transposing (HWIO to OIHW), and NumPy's transpose is a view. Every
#   transposed kernel is then wrong, and shapes, dtypes and file sizes are right.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
"$venv/bin/python" - "$work/x.safetensors" <<'PROGRAM'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

failed = False
path = sys.argv[1]
a = np.arange(6, dtype=np.float32).reshape(2, 3)


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def round_trip(array):
    """Return what comes back, and print both."""
    save_file({"x": array}, path)
    loaded = load_file(path)["x"]
    print(f"  saved {array.astype(int).tolist()}, loaded {loaded.astype(int).tolist()}")
    return loaded


print(f"safetensors {safetensors.__version__}, NumPy {np.__version__}")
check("a transposed array comes back with other values", not np.array_equal(round_trip(a.T), a.T))
check("an array in Fortran order, too", not np.array_equal(round_trip(np.asfortranarray(a)), a))
check("a contiguous copy comes back right", np.array_equal(round_trip(np.ascontiguousarray(a.T)), a.T))
kernel = np.random.default_rng(0).normal(size=(3, 3, 8, 16)).astype(np.float32)
save_file({"x": kernel.transpose(3, 2, 0, 1)}, path)
share = float(np.mean(load_file(path)["x"] != kernel.transpose(3, 2, 0, 1)))
print(f"  a 3 x 3 kernel, HWIO to OIHW: {share:.1%} of the values are wrong, the shape is right")
check("nearly all values of a transposed kernel are wrong", share > 0.95)
sys.exit(failed)
PROGRAM
