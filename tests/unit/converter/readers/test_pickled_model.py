"""Whole models of torch.save(model): the same tensors as their state_dict, and none of their code runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from converter.conversion import prepare
from converter.errors import UnsupportedSourceError
from converter.formats.pickled import Call, Name
from converter.locate import open_checkpoint
from converter.readers.pytorch.pickled_model import (
    MAX_ENTRIES,
    MAX_NESTING,
    class_of,
    is_model,
    plain_settings,
    state_dict_of,
)
from converter.readers.pytorch.torch_file import read_torch_file
from effdet_torch.network.model import EfficientDet
from support.sources import small_config


class Wrapper(nn.Module):
    """Everything that a state_dict has or leaves out: shared and empty places, buffers that are not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.second = self.first[0]
        self.nothing: nn.Module | None = None
        self.lists = nn.ModuleList([nn.ModuleDict({"a": nn.Linear(2, 2, bias=False)})])
        self.scale = nn.Parameter(torch.ones(3).bfloat16())
        self.register_parameter("absent", None)
        self.register_buffer("saved", torch.arange(3))
        self.register_buffer("unsaved", torch.zeros(3), persistent=False)
        self.register_buffer("absent_buffer", None)
        self.loss = some_loss
        self.part = torch.compile(nn.Linear(2, 1))


def some_loss() -> None:
    """An attribute that is no tensor."""


class Harmful(nn.Module):
    """Creates a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        super().__init__()
        self.layer, self.target = nn.Linear(2, 2), str(target)

    def __setstate__(self, state: dict[str, Any]) -> None:
        Path(state["target"]).touch()
        self.__dict__.update(state)


def budget() -> Iterator[int]:
    return iter(range(MAX_ENTRIES))


def read(path: Path, content: Any, is_zip: bool = True, protocol: int = 2) -> Any:
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    return read_torch_file(path)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel, torch.compile], ids=["bare", "DP", "compiled"])
def test_the_tensors_are_those_of_the_state_dict(tmp_path: Path, wrap: Any, is_zip: bool, protocol: int) -> None:
    model = wrap(Wrapper())
    found = read(tmp_path / "a.pth", model, is_zip, protocol)
    assert is_model(found)
    tensors, expected = state_dict_of(found, budget()), model.state_dict()
    assert list(tensors) == list(expected)
    for key, tensor in expected.items():
        values = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        assert np.array_equal(tensors[key].array(), values.numpy())


def test_other_objects_are_no_models(tmp_path: Path) -> None:
    found = read(
        tmp_path / "a.pth", [torch.device("cpu"), nn.Linear(2, 2).state_dict(), small_config(), {"_modules": {}}]
    )
    assert [is_model(value) for value in found] == [False] * 4
    assert class_of(found[2]) == "effdet_torch.config.EfficientDetConfig"


def test_nothing_of_a_model_runs(tmp_path: Path) -> None:
    found = read(tmp_path / "a.pth", {"model": Harmful(tmp_path / "harm")})
    assert list(state_dict_of(found["model"], budget())) == ["layer.weight", "layer.bias"]
    assert not (tmp_path / "harm").exists()
    torch.load(tmp_path / "a.pth", weights_only=False)  # the negative control
    assert (tmp_path / "harm").exists()


def module(**inner: Call) -> Call:
    return Call(Name("x.Module"), (), {"_parameters": {}, "_buffers": {}, "_modules": dict(inner)})


@pytest.mark.parametrize("kind", ["itself", "twice, which holds twice, ..."])
def test_models_that_never_end_are_refused(kind: str) -> None:
    found = module()
    for _ in range(40):
        found = module(a=found, b=found)
    if kind == "itself":
        found.attributes["_modules"]["a"] = found
    with pytest.raises(UnsupportedSourceError, match="larger, or nested deeper, than any detector"):
        state_dict_of(found, budget())


# Configs beside the tensors.


@dataclass
class Settings:
    name: str = "d0"
    size: tuple[int, int] = (512, 640)
    inner: dict[str, Any] = field(default_factory=lambda: {"ratios": [[1.0, 2.0]], 3: 4})
    other: Any = torch.float16


def test_settings_of_an_object(tmp_path: Path) -> None:
    found = plain_settings(read(tmp_path / "a.pth", Settings()), budget())
    assert found == {"name": "d0", "size": [512, 640], "inner": {"ratios": [[1.0, 2.0]]}, "other": None}


def test_settings_that_never_end() -> None:
    inner: Any = []
    for _ in range(MAX_NESTING):
        inner = [inner] * 1000
    itself: Any = Call(Name("x.Y"), (), {})
    itself.state["_val"] = itself
    assert plain_settings(itself, budget()) is None
    assert plain_settings(inner, iter(range(1000))) is not None


def test_a_whole_detector_of_this_project(tmp_path: Path) -> None:
    """Its config is used as well."""
    config = small_config(image_size=(256, 384), anchor_scale=3.0, activation="relu6")
    torch.manual_seed(0)
    model = EfficientDet(config)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
    torch.save({"epoch": 1, "detector": model}, tmp_path / "a.pth")
    torch.save(model.state_dict(), tmp_path / "b.pth")
    with open_checkpoint(tmp_path / "a.pth") as whole, open_checkpoint(tmp_path / "b.pth") as bare:
        assert whole.variables == bare.variables
        assert all(np.array_equal(whole.read(name), bare.read(name)) for name in bare.variables)
        assert prepare(whole).settings.config == config
        assert prepare(bare).settings.config != config  # the control
        assert prepare(whole).settings.origins["image_size"] == "the config of the pickled model"
