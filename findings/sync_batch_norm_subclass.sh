#!/usr/bin/env bash
# torch's conversion to synchronised batch norms removes the activations of timm's networks.
#
# Expected: SyncBatchNorm.convert_sync_batchnorm changes how statistics are computed in training, and nothing in eval mode.
# Seen (torch 2.14.1, timm 1.0.31), an EfficientNet with random weights and statistics, in eval mode:
#   batch norms with an activation inside (BatchNormAct2d)   49 before, 0 after
#   outputs before and after                                 differ by more than their rms
#   timm's own convert_sync_batchnorm                        49 after, equal outputs
#   There is no warning: the class is replaced with its base class, because a BatchNormAct2d is a BatchNorm2d.
# Why it matters: it is the first step of distributed training in torch's documentation. A run that fine-tunes weights begins
#   with a network that lacks most of its activations.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 timm==1.0.31 numpy==2.4.6
"$venv/bin/python" -W ignore - <<'PROGRAM'
import copy
import sys

import timm
import torch
from timm.layers import BatchNormAct2d, SyncBatchNormAct
from timm.layers import convert_sync_batchnorm as timm_convert
from torch import nn

failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def activated(network):
    kinds = (BatchNormAct2d, SyncBatchNormAct)
    return sum(isinstance(module, kinds) for module in network.modules())


torch.manual_seed(0)
network, images = timm.create_model("tf_efficientnet_b0", num_classes=10), torch.randn(2, 3, 64, 64)
for module in network.modules():
    if isinstance(module, nn.BatchNorm2d):
        module.momentum = 1.0
with torch.no_grad():
    network.train()(torch.randn(8, 3, 64, 64))
    network.eval()
    expected = network(images)
    by_torch = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(network)).eval()
    by_timm = timm_convert(copy.deepcopy(network)).eval()
    error = float((by_torch(images) - expected).abs().max() / expected.square().mean().sqrt())
    same = float((by_timm(images) - expected).abs().max() / expected.square().mean().sqrt())
print("torch", torch.__version__, "timm", timm.__version__)
check(f"activated batch norms: {activated(network)} before, {activated(by_torch)} after", activated(by_torch) == 0)
check(f"outputs differ by {error:.2f} of their rms", error > 1)
check(f"timm's conversion: {activated(by_timm)} after, outputs differ by {same:.0e}", same < 1e-5)
sys.exit(failed)
PROGRAM
