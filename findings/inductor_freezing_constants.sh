#!/usr/bin/env bash
# torch.compile with freezing multiplies two convolutions by the constant of the first one.
#
# Expected: conv_a(x) * 0.3 and conv_b(x) * 0.4 keep their factors; with `freezing` inductor may fold them into the weights.
# Seen (torch 2.14.1, CPU, inductor with freezing=True, no gradients), quotient of compiled and eager results:
#   factors as Python numbers         1.00   0.75     the second result is conv_b(x) * 0.3
#   factors as 0-dimensional buffers  1.00   1.00
#   either, without freezing          1.00   1.00
#   There is no warning.
# Why it matters: constant scales after convolutions are what folding leaves behind (fusion weights of a feature pyramid,
#   quantisation scales). A detector whose pyramid is weighted this way computes something else, and still finds objects.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6 setuptools
"$venv/bin/python" -W ignore - <<'PROGRAM'
import sys

import torch
from torch import nn
from torch._inductor import config

failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


class Numbers(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_a, self.conv_b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.conv_a(x) * 0.3, self.conv_b(x) * 0.4


class Buffers(Numbers):
    def __init__(self):
        super().__init__()
        self.register_buffer("factor_a", torch.tensor(0.3))
        self.register_buffer("factor_b", torch.tensor(0.4))

    def forward(self, x):
        return self.conv_a(x) * self.factor_a, self.conv_b(x) * self.factor_b


def quotients(kind, freezing):
    torch._dynamo.reset()
    torch.manual_seed(0)
    module, x = kind().eval(), torch.randn(1, 4, 8, 8)
    with torch.no_grad(), config.patch(freezing=freezing):
        pairs = list(zip(torch.compile(module)(x), module(x)))
    return [float((found / expected).median()) for found, expected in pairs]


def near(found, expected):
    return all(abs(one - other) < 1e-4 for one, other in zip(found, expected))


print("torch", torch.__version__)
numbers, frozen = quotients(Numbers, False), quotients(Numbers, True)
buffers = quotients(Buffers, True)
check(f"numbers, not frozen: {numbers[0]:.2f} {numbers[1]:.2f}", near(numbers, (1, 1)))
check(f"numbers, frozen:     {frozen[0]:.2f} {frozen[1]:.2f}", near(frozen, (1, 0.75)))
check(f"buffers, frozen:     {buffers[0]:.2f} {buffers[1]:.2f}", near(buffers, (1, 1)))
sys.exit(failed)
PROGRAM
