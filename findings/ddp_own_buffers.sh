#!/usr/bin/env bash
# DistributedDataParallel without broadcast_buffers does not give the processes the same buffers at the start, either.
#
# Expected: wrapping a model gives all processes the first one's parameters and buffers; broadcast_buffers=False only leaves
#   out the repeated broadcast at every forward pass.
# Seen (torch 2.14.1, two processes, gloo), a batch norm whose values differ between the processes:
#   broadcast_buffers=True     weight and running mean of the second process are the first one's
#   broadcast_buffers=False    its weight is the first one's, its running mean is its own
#   Outputs in eval mode differ accordingly.
# Why it matters: with synchronised or frozen batch norms people switch the broadcast off for speed. Where only rank 0 loads
#   the weights, all others normalise with the statistics of an untrained network, and nothing is raised.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6
cd "$work"
cat > program.py <<'PROGRAM'
import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def train(rank, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29521", RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo")
    found = {}
    for broadcast in (True, False):
        norm = nn.BatchNorm2d(1)
        nn.init.constant_(norm.weight, 1 + rank)
        nn.init.constant_(norm.running_mean, 10 * rank)
        norm.eval()  # statistics are used and kept, as with pretrained weights
        model = DistributedDataParallel(norm, broadcast_buffers=broadcast)
        state = norm.weight.item(), norm.running_mean.item()
        model(torch.ones(1, 1, 2, 2)).sum().backward()
        found[broadcast] = (*state, norm(torch.ones(1, 1, 1, 1)).item())
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(train, (os.getcwd(),), nprocs=2)
    first, second = (torch.load(f"{rank}.pt") for rank in (0, 1))
    failed = False
    print("torch", torch.__version__)
    for broadcast, mean in ((True, 0.0), (False, 10.0)):
        holds = second[broadcast][:2] == (1.0, mean) and first[broadcast][:2] == (1.0, 0.0)
        holds &= (first[broadcast][2] == second[broadcast][2]) == broadcast
        failed |= not holds
        text = f"broadcast_buffers={broadcast}: weight, running mean, output {first[broadcast]} and {second[broadcast]}"
        print("   ", "as stated:" if holds else "CHANGED:  ", text)
    sys.exit(failed)
PROGRAM
"$venv/bin/python" -W ignore program.py
