#!/usr/bin/env bash
# ExecuTorch's XNNPACK backend gives wrong results where one convolution is followed by several batch norms.
#
# Expected: a convolution that serves several inputs, each with a batch norm of its own behind it, gives what PyTorch gives.
# Seen (executorch 1.5.1, torch 2.14.1, CPU), largest error of each result over the rms of PyTorch's:
#   one batch norm                       0.0
#   two, XNNPACK                         0.0   0.8        only the first result is right
#   two, portable kernels                0.0   0.0
#   two, XNNPACK, a convolution each     0.0   0.0        the same weights, copied
#   There is no warning.
# Why it matters: this is how EfficientDet's heads serve all levels of the pyramid: the finest level is right, the others are
#   not, and a detector still finds small objects. Fold the batch norms before exporting, and compare every output.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 executorch==1.5.1 numpy==2.4.6
"$venv/bin/python" -W ignore - <<'PROGRAM'
import copy
import logging
import sys
from importlib.metadata import version

import torch
from torch import nn

logging.disable(logging.WARNING)
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime

failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


class Head(nn.Module):
    """One 1x1 convolution for all inputs, or a copy of it for each; a batch norm for each."""

    def __init__(self, inputs, shared):
        super().__init__()
        conv = nn.Conv2d(4, 4, 1)
        self.convs = nn.ModuleList(conv if shared else copy.deepcopy(conv) for _ in range(inputs))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(inputs))
        for norm in self.norms:
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        return [norm(conv(x + i)) for i, (conv, norm) in enumerate(zip(self.convs, self.norms))]


def errors(inputs, shared=True, partitioner=None):
    torch.manual_seed(0)
    module, x = Head(inputs, shared).eval(), torch.randn(1, 4, 8, 8)
    edge = to_edge_transform_and_lower(torch.export.export(module, (x,)), partitioner=partitioner)
    program = Runtime.get().load_program(edge.to_executorch().buffer)
    found = [tensor.clone() for tensor in program.load_method("forward").execute([x])]
    with torch.no_grad():
        pairs = zip(found, module(x))
        return [float((one - other).abs().max() / other.square().mean().sqrt()) for one, other in pairs]


def right(values):
    return all(value < 1e-5 for value in values)


def shown(values):
    return "  ".join(f"{value:.1f}" for value in values)


xnnpack = [XnnpackPartitioner()]
one, two = errors(1, partitioner=xnnpack), errors(2, partitioner=xnnpack)
portable, copied = errors(2), errors(2, shared=False, partitioner=xnnpack)
print("executorch", version("executorch"), "torch", torch.__version__)
check(f"one batch norm:                   {shown(one)}", right(one))
check(f"two, XNNPACK:                     {shown(two)}", right(two[:1]) and two[1] > 0.5)
check(f"two, portable kernels:            {shown(portable)}", right(portable))
check(f"two, XNNPACK, a convolution each: {shown(copied)}", right(copied))
sys.exit(failed)
PROGRAM
