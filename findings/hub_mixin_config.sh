#!/usr/bin/env bash
# A model saved with Hugging Face's PyTorchModelHubMixin comes back with other settings, or without its weights, silently.
#
# Expected: from_pretrained(folder) after save_pretrained(folder) gives a model that computes the same, or an error. The
#   mixin is documented to store the arguments of __init__ and to take further types through `coders`.
# Seen (huggingface_hub 2.4.0, torch 2.13.0, safetensors 0.8.0; the largest output of the model is 6.7):
#   __init__(eps=1e-5, act=nn.ReLU) called with     config.json holds     loaded model has     largest difference
#     eps=1e-3                                      "eps": 0.001          eps 0.001            0
#     eps=numpy.float32(1e-3)                       "eps": 1e-05          eps 1e-05            0.042
#     eps=numpy.float64(1e-3)                       "eps": 0.001          eps 0.001            0
#     act=nn.SiLU                                   no "act"              nn.ReLU              0.28
#   A class whose layer has another name (`self.stem` instead of `self.conv`) loads the same folder: its convolution keeps
#   its random values, another set in each call. load_state_dict, with its defaults, raises an error.
#   There is no warning in any of these cases.
# Why, as far as this script shows it: an argument that JSON cannot hold is left out, and then the default of __init__
#   stands in config.json as if it had been passed. numpy.float64 is a Python float and gets through, numpy.float32 is
#   not. The weights are loaded with strict=False unless the caller asks for strict=True.
# Why it matters: a port copies its settings from a checkpoint or a NumPy array. The epsilon of a batch norm or the
#   activation has no weights, so nothing fails: the published model is just a little, or a lot, worse.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check \
    huggingface_hub==2.4.0 torch==2.13.0 safetensors==0.8.0 numpy==2.4.6
export CUDA_VISIBLE_DEVICES="" HF_HUB_OFFLINE=1 HF_HOME="$work/home"
cd "$work"
cat >program.py <<'PROGRAM'
import json
import sys
import warnings
from pathlib import Path

import huggingface_hub
import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


class Net(nn.Module, PyTorchModelHubMixin):
    def __init__(self, eps=1e-5, act=nn.ReLU):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8, eps=float(eps))
        self.act = act()

    def forward(self, images):
        return self.act(self.norm(self.conv(images)))


class Renamed(nn.Module, PyTorchModelHubMixin):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)


def saved(folder, **arguments):
    """Return a model with non-trivial statistics, stored in `folder`."""
    torch.manual_seed(0)
    model = Net(**arguments).eval()
    nn.init.uniform_(model.norm.running_var, 0.05, 0.2)
    model.save_pretrained(folder)
    return model


print(f"huggingface_hub {huggingface_hub.__version__}, torch {torch.__version__}")
images = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
warnings.simplefilter("error")
with torch.no_grad():
    for arguments, eps_in_config, eps_loaded, same in (
        ({"eps": 1e-3}, 1e-3, 1e-3, True),
        ({"eps": np.float32(1e-3)}, 1e-5, 1e-5, False),
        ({"eps": np.float64(1e-3)}, 1e-3, 1e-3, True),
        ({"act": nn.SiLU}, 1e-5, 1e-5, False),
    ):
        model = saved("folder", **arguments)
        config = json.loads(Path("folder/config.json").read_text())
        loaded = Net.from_pretrained("folder")
        difference = (model(images) - loaded(images)).abs().max().item()
        print(f"    {arguments}: largest output {model(images).max():.2g}, largest difference {difference:.2g}")
        check(f"config.json is {config}", config == {"eps": eps_in_config})
        holds = loaded.norm.eps == eps_loaded and isinstance(loaded.act, nn.ReLU)
        check(f"loaded with eps {loaded.norm.eps}, {loaded.act}", holds)
        check("the same output" if same else "another output, no warning", difference == 0 if same else difference > 1e-3)

    model = saved("folder")
    first, second = Renamed.from_pretrained("folder"), Renamed.from_pretrained("folder")
    check("a renamed layer keeps random values", not torch.equal(first.stem.weight, second.stem.weight))
    check("the other layer is loaded", torch.equal(first.norm.running_var, model.norm.running_var))
    try:
        Renamed().load_state_dict(model.state_dict())
    except RuntimeError:
        refused = True
    else:
        refused = False
    check("load_state_dict refuses the same weights", refused)
    try:
        Renamed.from_pretrained("folder", strict=True)
    except RuntimeError:
        refused = True
    else:
        refused = False
    check("from_pretrained refuses them with strict=True", refused)
sys.exit(failed)
PROGRAM
"$venv/bin/python" program.py
