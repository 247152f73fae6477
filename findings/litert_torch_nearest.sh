#!/usr/bin/env bash
# litert-torch turns F.interpolate(mode="nearest") into another operation: wrong pixels unless the factor is a whole number.
#
# Expected: output i takes input floor(i * in / out), PyTorch's documented "nearest" (the same as OpenCV's INTER_NEAREST);
#   RESIZE_NEAREST_NEIGHBOR without halfPixelCenters computes that.
# Seen (litert-torch 0.10.0, torch 2.14.1, ai-edge-litert 2.3.0), values 0 1 2 .. of a row, enlarged:
#   3 -> 5     PyTorch 0 0 1 1 2      converted file 0 0 1 2 2
#   4 -> 8     PyTorch and file 0 0 1 1 2 2 3 3
#   The file has halfPixelCenters set, which is PyTorch's "nearest-exact"; nothing is raised or warned about.
# Why it matters: feature pyramids enlarge levels to sizes that are no multiples (EfficientDet-Lite0 at 320 pixels: 3 -> 5),
#   so boxes move, while a test with a size that is a power of two passes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check litert-torch==0.10.0 torch==2.14.1 \
  ai-edge-litert==2.3.0 numpy==2.4.6
cd "$work"
"$venv/bin/python" -W ignore - 2> log <<'PROGRAM' || { cat log; exit 1; }
import contextlib
import io
import sys

import litert_torch
import numpy as np
import torch
import torch.nn.functional as F
from ai_edge_litert import schema_py_generated as schema


class Enlarge(torch.nn.Module):
    def __init__(self, width, mode):
        super().__init__()
        self.width, self.mode = width, mode

    def forward(self, x):
        return F.interpolate(x, size=(1, self.width), mode=self.mode)


failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def rows(narrow, wide, mode="nearest"):
    """Return what PyTorch and the converted file make of a row, and whether the file's pixels are centred."""
    module, row = Enlarge(wide, mode).eval(), torch.arange(float(narrow)).reshape(1, 1, 1, narrow)
    with contextlib.redirect_stdout(io.StringIO()):  # progress
        converted = litert_torch.convert(module, (row,))
        converted.export("m.tflite")
        found = np.asarray(converted(row)).ravel().astype(int).tolist()
    with open("m.tflite", "rb") as file:
        graph = schema.ModelT.InitFromPackedBuf(file.read(), 0).subgraphs[0]
    options = [operator.builtinOptions for operator in graph.operators]
    (centred,) = [option.halfPixelCenters for option in options if hasattr(option, "halfPixelCenters")]
    return module(row).flatten().int().tolist(), found, centred


ours, theirs, centred = rows(3, 5)
holds = (ours, theirs, centred) == ([0, 0, 1, 1, 2], [0, 0, 1, 2, 2], True)
check(f"3 -> 5: PyTorch {ours}, file {theirs}, halfPixelCenters {centred}", holds)
ours, theirs, _ = rows(4, 8)
check(f"4 -> 8: PyTorch {ours}, file {theirs}", ours == theirs == [0, 0, 1, 1, 2, 2, 3, 3])
exact = Enlarge(5, "nearest-exact")(torch.arange(3.0).reshape(1, 1, 1, 3)).flatten().int().tolist()
check(f'3 -> 5: PyTorch "nearest-exact" {exact}', exact == [0, 0, 1, 2, 2])
sys.exit(failed)
PROGRAM
