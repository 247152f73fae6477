"""What PyTorch files state about themselves: configs that do not fit, metadata of other tools."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from converter.conversion import convert_checkpoint, prepare
from converter.errors import ConversionError, CorruptFileError
from converter.identify.own_metadata import plain_metadata
from converter.locate import open_checkpoint
from converter.readers.pytorch.state_dict import NO_METADATA
from effdet_torch.file_format import METADATA_KEY
from support.sources import MemorySource, plan_of, seeded, small_config


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a converted model, as .pth and as .safetensors."""
    folder = tmp_path_factory.mktemp("own")
    for suffix in (".pth", ".safetensors"):
        convert_checkpoint(prepare(MemorySource(seeded(plan_of(small_config())))), folder / f"a{suffix}")
    return folder


def with_metadata(own: Path, path: Path, change: Callable[[Any], Any]) -> Path:
    content = torch.load(own / "a.pth", weights_only=True)
    metadata = change(content["metadata"])
    if path.suffix == ".pth":
        torch.save(content | {"metadata": metadata}, path)
        return path
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    save_file(load_file(own / "a.safetensors"), path, {METADATA_KEY: text})
    return path


def set_config(**values: Any) -> Callable[[Any], Any]:
    return lambda metadata: metadata | {"config": metadata["config"] | values}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_config(num_scales=0), "num_scales is 0; expected a positive integer"),
        (set_config(fusion=["sum"]), "fusion is .*; expected one of fastattn"),
        (set_config(unknown=1), "unknown model setting 'unknown'"),
        (set_config(mean_rgb=[10**400, 1, 1]), "mean_rgb is"),
        (set_config(backbone="x" * 10_000), "backbone is 'xx"),
        (lambda metadata: metadata | {"config": {}}, "do not form a config"),
    ],
)
def test_a_config_that_does_not_fit(tmp_path: Path, own: Path, suffix: str, change: Any, words: str) -> None:
    path = with_metadata(own, tmp_path / f"a{suffix}", change)
    with pytest.raises(CorruptFileError, match=rf"a{suffix}: the config in its metadata .*{words}") as caught:
        open_checkpoint(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_config_that_contradicts_the_tensors(tmp_path: Path, own: Path, suffix: str) -> None:
    words = "its metadata sets num_classes to 7, .* show 2"
    path = with_metadata(own, tmp_path / f"a{suffix}", set_config(num_classes=7))
    with open_checkpoint(path) as source, pytest.raises(ConversionError, match=words):
        prepare(source)


@pytest.mark.parametrize("text", ["{", "[1]", "5", "null", "[" * 100_000])
def test_metadata_that_are_not_json(tmp_path: Path, own: Path, text: str) -> None:
    path = with_metadata(own, tmp_path / "a.safetensors", lambda _: text)
    with pytest.raises(CorruptFileError, match=r"a\.safetensors: the entry 'effdet_convert' is not JSON: .*Copy it"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "value", [None, "text", [1, 2], {"epoch": 3}, {"when": pickle.Pickler}, {"config": "d0"}, {"config": {"lr": 0.1}}]
)
def test_metadata_of_others_are_ignored(tmp_path: Path, own: Path, value: Any) -> None:
    with open_checkpoint(with_metadata(own, tmp_path / "a.pth", lambda _: value)) as source:
        assert source.facts.given == ()
        assert NO_METADATA in source.facts.notes


def test_metadata_that_are_endless() -> None:
    cycle: dict[str, Any] = {}
    cycle["config"] = cycle
    nested: Any = []
    for _ in range(20):
        nested = [nested, nested]
    for value in (cycle, {"config": nested}, {"config": "x" * 2_000_000}):
        assert plain_metadata(value) == {}
    assert plain_metadata([[1, 2]]) == {}  # pairs are not a dictionary
    assert plain_metadata({"a": (1, None)}) == {"a": [1, None]}
