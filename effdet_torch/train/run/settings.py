"""settings.yaml: what a run was started with. A resumed run must be the same training."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import msgspec

from effdet_torch import __version__
from effdet_torch.errors import EffdetError, UsageError, listed
from effdet_torch.train.recipe import Recipe
from effdet_torch.train.request import TrainRequest
from effdet_torch.train.run.results import NEXT_STEP
from effdet_torch.untrusted.documents import parse_yaml
from effdet_torch.untrusted.files import MAX_YAML_BYTES, read_bytes, reason_of

SETTINGS = "settings.yaml"
RECIPE = "recipe"
# What a resumed run may change, and why that does not make it another training.
MAY_CHANGE: Mapping[str, str] = {
    "epochs": "a run may go on for longer",
    "patience": "when to stop is not how to train",
    "val_every": "validations leave the weights as they are",
    "workers": "every image has its own random numbers",
    "device": "a run may move to another machine",
    "data": "the folder may have moved; its checksums are compared",
    "batch_auto": "the batch that was found is compared",
    "tensorboard": "events are copies of the results",
}
RECORDED = ("versions", "command")  # sections that are not settings
FREE = ("out", "resume", "check_data")  # of a request: what to do, not what is trained


def settings_of(request: TrainRequest, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings of a run as plain values.

    Args:
        request: what the user asked for, with the batch that is used.
        facts: sections of the file of their own, such as the classes, what was assumed and the command line.
    """
    named = {field.name: _plain(getattr(request, field.name)) for field in fields(request) if field.name not in FREE}
    recipe = {name: _plain(value) for name, value in asdict(request.recipe).items()}
    return {**named, RECIPE: recipe, "versions": versions(), **(facts or {})}


def versions() -> dict[str, str]:
    """Return the versions of everything that computes."""
    import numpy as np
    import PIL
    import torch

    return {
        "effdet-convert": __version__,
        "Python": platform.python_version(),
        "PyTorch": str(torch.__version__),
        "NumPy": np.__version__,
        "Pillow": PIL.__version__,
    }


def to_yaml(settings: Mapping[str, Any]) -> bytes:
    """Return settings as a YAML file."""
    import yaml

    text: str = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    return text.encode()


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of the run in a folder.

    Raises:
        UsageError: The folder is not that of a run.
        EffdetError: The file is damaged.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise UsageError(f"{folder} is not a run folder: it has no {SETTINGS}; pass the --out of the run")
    return read_settings_file(path)


def read_settings_file(path: Path) -> dict[str, Any]:
    """Return the settings in a file that `to_yaml` made; see `read_settings`."""
    try:
        settings = parse_yaml(read_bytes(path, MAX_YAML_BYTES))
    except (OSError, ValueError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else error
        raise EffdetError(f"{path} cannot be read: {reason}; {NEXT_STEP}") from error
    if not isinstance(settings, dict) or not isinstance(settings.get(RECIPE), dict):
        raise EffdetError(f"{path} is damaged: expected a section {RECIPE}; {NEXT_STEP}")
    return settings


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return which settings differ that must not, as texts: "seed 1 (the run has 0)".

    Args:
        before: of the run; sections are compared by their entries.
        now: wanted; what only one side has is not compared.
    """
    return [f"{name} {_shown(new)} (the run has {_shown(old)})" for name, old, new in _pairs(before, now) if old != new]


def require_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuse to resume a run as another training.

    Raises:
        UsageError: The text names every setting that differs.
    """
    if wrong := changed(before, now):
        raise UsageError(
            f"{folder} cannot be resumed with other settings: {listed(wrong)}; leave them out, or start a new run with "
            f"another --out. Only these may change: {', '.join(MAY_CHANGE)}"
        )


def resumed(folder: Path, given: Mapping[str, Any]) -> TrainRequest:
    """Return the request of the run in a folder, with what may change replaced.

    Args:
        folder: of the run.
        given: fields of `TrainRequest` and `Recipe` that the user named.

    Raises:
        UsageError: The folder is not that of a run, or a setting must not change.
        EffdetError: The file of the settings is damaged.
    """
    before = read_settings(folder)
    of_recipe = {field.name for field in fields(Recipe)}
    recipe = {name: _plain(value) for name, value in given.items() if name in of_recipe}
    others = {name: _plain(value) for name, value in given.items() if name not in of_recipe}
    require_same(before, {**others, RECIPE: recipe}, folder)
    known = {field.name for field in fields(TrainRequest)}
    values = {name: value for name, value in {**before, **others}.items() if name in known}
    values |= {RECIPE: {**before[RECIPE], **recipe}, "out": folder, "resume": True, "batch_auto": False}
    try:
        return msgspec.convert(values, TrainRequest, dec_hook=lambda kind, value: kind(value))
    except (msgspec.ValidationError, TypeError) as error:
        raise EffdetError(f"{folder / SETTINGS} is damaged ({error}); {NEXT_STEP}") from error


def _pairs(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, before, now) of all settings that both have and that must not change, sections included."""
    for name in sorted(now.keys() & before.keys() - {*MAY_CHANGE, *RECORDED}, key=str):
        old, new = before[name], now[name]
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _pairs(old, new)
        else:
            yield name, old, new


def _plain(value: Any) -> Any:
    """Return a value as YAML gives it back."""
    return list(value) if isinstance(value, tuple) else str(value.absolute()) if isinstance(value, Path) else value


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)
