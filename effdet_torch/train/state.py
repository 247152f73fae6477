"""The full state of a training: everything that the rest of it depends on, in one file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effdet_torch.errors import ModelFileError
from effdet_torch.network.saving import save_tensors
from effdet_torch.outputs.atomic import replacing
from effdet_torch.train.run.place import STATE_FILE, restart
from effdet_torch.untrusted.files import MAX_MODEL_BYTES, reason_of, require_regular

STATE_VERSION = 1


@dataclass
class TrainState:
    """A training between two updates.

    Attributes:
        epoch: the one that is running, from 0; all before it are done.
        updates: done in this epoch.
        sums: {name: sum over these updates} of what the epoch's row of results reports the mean of.
        seconds: that they took.
        best: {"AP": ..., "epoch": ..., "weights": ...} of the best validation; empty before the first.
        stale: validations since then.
        model: {key: tensor} of the network.
        step: what `TrainStep.state_dict` returns: optimizer, averages, updates in all.
        origin: what the model that the training began with states about itself: metadata and the config at that time.
    """

    epoch: int = 0
    updates: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    best: dict[str, Any] = field(default_factory=dict)
    stale: int = 0
    model: Mapping[str, Tensor] = field(default_factory=dict)
    step: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)


def save_state(state: TrainState, folder: Path) -> None:
    """Write a state into the folder of its run, completely or not at all.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
    """
    with replacing(folder / STATE_FILE) as stream:
        save_tensors({"version": STATE_VERSION, **vars(state)}, stream)
        stream.flush()
        os.fsync(stream.fileno())  # a state that was lost with the power is a training that was lost


def load_state(folder: Path) -> TrainState:
    """Read the state of a run; nothing in it is executed.

    Raises:
        ModelFileError: There is none, or it is damaged or another version's.
    """
    path = folder / STATE_FILE
    try:
        require_regular(path, MAX_MODEL_BYTES)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelFileError(
            f"{path} does not exist: nothing to resume; start a run in another folder, without --resume"
        ) from error
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {reason_of(error)}") from error
    except Exception as error:  # damaged bytes can end in any error of the unpickler
        raise ModelFileError(f"{path} is damaged: {restart(folder)}") from error
    names = set(TrainState.__dataclass_fields__)
    if not isinstance(content, dict) or content.get("version") != STATE_VERSION or set(content) != names | {"version"}:
        raise ModelFileError(f"{path} was not written by this version; {restart(folder)}")
    return TrainState(**{name: content[name] for name in names})
