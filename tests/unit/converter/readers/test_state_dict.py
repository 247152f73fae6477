"""PyTorch files as sources of TensorFlow variables: every value comes back, and nothing is guessed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from converter.conversion import convert_checkpoint, prepare
from converter.errors import UnsupportedSourceError, ViewError
from converter.locate import open_checkpoint
from converter.readers.pytorch.state_dict import FOLDED_BIASES, NO_BIASES, NO_METADATA, StateDict
from converter.source import OPTIMIZER_STATE, OTHER_COPY, VariableInfo
from effdet_torch import load_model, save_model
from effdet_torch.architecture.backbone import BACKBONES
from effdet_torch.config import VARIANTS, get_config
from support.sources import EMA, MemorySource, averages, plan_of, seeded, small_config

State = dict[str, torch.Tensor]
SUFFIXES = pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
KEPT = pytest.mark.parametrize("kept", [False, True], ids=["folded", "kept"])
STEM = "efficientnet-b0/stem/conv2d/kernel"
MEAN, BIAS = "class_net/class-0-bn-3/moving_mean", "class_net/class-0/bias"


def convert(out: Path, source: Any, **options: Any) -> Path:
    convert_checkpoint(prepare(source, keep_redundant_bias=options.pop("kept", False)), out, **options)
    return out


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def variables_of(path: Path) -> dict[str, Any]:
    with open_checkpoint(path) as source:
        return {name: source.read(name) for name in source.variables}


def differing(one: Path, other: Path) -> set[str]:
    """The variables in which two files with the same names differ."""
    found, expected = variables_of(one), variables_of(other)
    assert found.keys() == expected.keys()
    return {name for name in found if not np.array_equal(found[name], expected[name])}


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    """The variables of a small model."""
    return seeded(plan_of(small_config()))


@pytest.fixture(scope="module")
def own(values: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted file of these variables, which were averages."""
    source = MemorySource(averages(values) | values, "folder/efficientdet-d0")
    return convert(tmp_path_factory.mktemp("own") / "a.pth", source)


@pytest.fixture
def state(own: Path) -> State:
    """The bare tensors of the converted file."""
    tensors: State = torch.load(own, weights_only=True)["state_dict"]
    return tensors


# Our own files.


@SUFFIXES
@KEPT
def test_own_files_come_back(tmp_path: Path, values: Mapping[str, Any], suffix: str, kept: bool) -> None:
    path = convert(tmp_path / f"a{suffix}", MemorySource(values), kept=kept)
    found = variables_of(path)
    assert found.keys() == values.keys()
    for name, array in found.items():
        assert (array.dtype, array.shape, type(array)) == (np.float32, values[name].shape, np.ndarray)
    if kept:
        assert all(found[name].tobytes() == values[name].tobytes() for name in values)
    else:
        assert found[MEAN].tobytes() == (values[MEAN] - values[BIAS]).tobytes()
        assert not found[BIAS].any()
        assert found[STEM].tobytes() == values[STEM].tobytes()
    with open_checkpoint(path) as source:
        again = convert(tmp_path / f"again{suffix}", source, kept=kept)
    load: Callable[[Path], Any] = load_file if suffix == ".safetensors" else lambda p: torch.load(p)["state_dict"]
    one, other = load(path), load(again)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("copy", ["ema", "raw"])
def test_own_files_describe_themselves(tmp_path: Path, values: Mapping[str, Any], copy: str) -> None:
    config = {"image_size": "640x384", "num_scales": 1, "aspect_ratios": [1.0] * 9, "scale_range": True}
    given = MemorySource((averages(values) if copy == "ema" else {}) | values, "folder/efficientdet-d0")
    path = tmp_path / "a.pth"
    convert_checkpoint(prepare(given, hparams=config), path)
    with open_checkpoint(path) as source:
        assert isinstance(source, StateDict)
        assert (source.kind, source.path, source.facts.folder, source.files()) == (
            "PyTorch file",
            path,
            tmp_path,
            (path,),
        )
        assert source.facts.notes == ()
        assert source.facts.provenance["from"]["name"] == "efficientdet-d0"
        assert source.variables[BIAS] == VariableInfo("float32", (8,))
        found = prepare(source)
    assert found.settings.config == prepare(given, hparams=config).settings.config
    assert found.settings.origins["image_size"] == "--hparams"  # as at the first conversion
    assert found.view.name == copy
    assert source.facts.held_view == copy
    assert f"{MEAN}/{EMA}" not in source.variables  # one copy, which lies under the raw names


def test_swapped_tensors_come_back_swapped(tmp_path: Path, own: Path, state: State) -> None:
    """The negative control: names decide, not the order in the file."""
    one, other = (f"class_net.bn_rep.0.{index}.bn.running_mean" for index in (0, 1))
    wrong = saved(tmp_path / "a.pth", dict(reversed(state.items())) | {one: state[other], other: state[one]})
    assert differing(wrong, own) == {MEAN, MEAN.replace("bn-3", "bn-4")}
    assert np.array_equal(variables_of(wrong)[MEAN], variables_of(own)[MEAN.replace("bn-3", "bn-4")])


# Files of others.


@SUFFIXES
@KEPT
def test_a_bare_state_dict(tmp_path: Path, values: Mapping[str, Any], suffix: str, kept: bool) -> None:
    path = convert(tmp_path / "own.pth", MemorySource(values), kept=kept)
    tensors: State = torch.load(path, weights_only=True)["state_dict"]
    path = tmp_path / f"a{suffix}"
    if suffix == ".pth":
        saved(path, tensors)
    else:
        save_file(tensors, path)
    with open_checkpoint(path) as source:
        assert source.facts.notes == ((NO_METADATA,) if kept else (NO_METADATA, NO_BIASES))
        assert source.facts.unrecoverable == (OTHER_COPY, *([] if kept else [FOLDED_BIASES]), OPTIMIZER_STATE)
        assert (source.facts.given, source.facts.provenance) == ((), {})
        assert prepare(source).view.name == "raw"
        with pytest.raises(ViewError, match=r"no averages \(EMA\)"):
            prepare(source, weights="ema")
        assert source.read(STEM).tobytes() == values[STEM].tobytes()


@SUFFIXES
@KEPT
def test_the_layout_of_the_effdet_package_has_all_biases(
    tmp_path: Path, values: Mapping[str, Any], suffix: str, kept: bool
) -> None:
    path = convert(tmp_path / f"a{suffix}", MemorySource(values), bare=True, kept=kept)
    assert not differing(path, convert(tmp_path / "kept.pth", MemorySource(values), kept=True))
    with open_checkpoint(path) as source:
        assert source.facts.notes == (NO_METADATA,)
        assert source.facts.unrecoverable == (OTHER_COPY, OPTIMIZER_STATE)


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model."])
def test_the_module_around_the_network(tmp_path: Path, own: Path, state: State, prefix: str) -> None:
    """Other tensors in it are ignored, and counters of batches may be missing."""
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    assert counters
    around = OrderedDict((f"{prefix}{key}", tensor) for key, tensor in state.items() if key not in counters)
    around |= {"anchors.boxes": torch.zeros(5, 4), "loss_fn.weight": torch.zeros(())}
    path = saved(tmp_path / "a.pth", {"state_dict": around, "epoch": 3})
    assert not differing(path, own)
    with open_checkpoint(path) as source:
        assert "2 tensors beside the network's: 'anchors.boxes', 'loss_fn.weight'" in source.facts.notes


@pytest.mark.parametrize("keys", [("state_dict", "state_dict_ema"), ("model", "model_ema")])
def test_a_training_checkpoint_has_two_copies(tmp_path: Path, state: State, keys: tuple[str, str]) -> None:
    other = {key: tensor + 1 for key, tensor in state.items()}
    content = {keys[0]: state, keys[1]: other, "optimizer": {"state": {0: torch.zeros(3)}}, "arch": "d0"}
    with open_checkpoint(saved(tmp_path / "a.pth", content)) as source:
        kernel = state["backbone.conv_stem.weight"].permute(2, 3, 1, 0).numpy()
        assert np.array_equal(source.read(STEM), kernel)
        assert np.array_equal(source.read(f"{STEM}/{EMA}"), kernel + 1)
        assert prepare(source).view.name == "ema"
        assert prepare(source, weights="raw").view.name == "raw"
        assert OTHER_COPY not in source.facts.unrecoverable
    with open_checkpoint(saved(tmp_path / "b.pth", {keys[1]: other})) as source:
        assert all(name.endswith(EMA) for name in source.variables)
        assert prepare(source).view.name == "ema"


def test_the_place_of_a_network_is_noted(tmp_path: Path, own: Path, state: State) -> None:
    content = {"model_state_dict": {f"module.{key}": tensor for key, tensor in state.items()}, "epoch": 3}
    path = saved(tmp_path / "a.pth", content)
    assert not differing(path, own)
    with open_checkpoint(path) as source:
        assert "the raw values are the network under 'model_state_dict / module.'" in source.facts.notes
        assert prepare(source).view.reason == "the checkpoint has no averages (EMA)"


def test_a_saved_model_does_not_say_which_copy_it_is(tmp_path: Path, own: Path) -> None:
    save_model(load_model(own), tmp_path / "saved.pth")
    with open_checkpoint(tmp_path / "saved.pth") as source:
        assert prepare(source).view.reason.endswith("whether they are averages (EMA) is not recorded")


def test_averages_that_cannot_be_read_are_the_reason_for_raw_values(tmp_path: Path, state: State) -> None:
    """Never "has no averages" beside them."""
    with open_checkpoint(saved(tmp_path / "a.pth", {"net": state, "ema": [torch.zeros(3)]})) as source:
        view = prepare(source).view
        assert (view.name, "what lies under 'ema' is called averages" in view.reason) == ("raw", True)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_as_hugging_face_writes_it(tmp_path: Path, own: Path, state: State, name: str) -> None:
    folder = tmp_path / "detector"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (save_file if name.endswith(".safetensors") else torch.save)(state, folder / name)  # type: ignore[operator]
    assert not differing(folder, own)
    with open_checkpoint(folder) as source:
        assert (source.path, source.files()) == (folder, (folder / name,))
        assert "config.json in the folder is not read" in source.facts.notes


def test_a_folder_whose_model_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UnsupportedSourceError, match=r"a PyTorch model in several files .* Save it as one file"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(UnsupportedSourceError, match=r"model\.safetensors: this is a git-lfs pointer"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@SUFFIXES
def test_other_precisions(tmp_path: Path, state: State, dtype: torch.dtype, suffix: str) -> None:
    cast = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    path = tmp_path / f"a{suffix}"
    (torch.save if suffix == ".pth" else save_file)(cast, path)
    with open_checkpoint(path) as source:
        assert source.variables[STEM].dtype == str(dtype).removeprefix("torch.")
        again = convert(tmp_path / "again.pth", source)
    found = torch.load(again, weights_only=True)["state_dict"]
    assert all(torch.equal(found[key], cast[key].to(found[key].dtype)) for key in cast)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_is_recognised(tmp_path: Path, backbone: str) -> None:
    variant = next((config.name for config in VARIANTS.values() if config.backbone == backbone), "d7x")
    small = get_config(
        variant, backbone=backbone, fpn_channels=8, fpn_cells=1, head_repeats=1, max_level=5, num_classes=2
    )
    shapes = {key: entry.target_shape for key, entry in plan_of(small).targets.items()}
    path = saved(tmp_path / "a.pth", {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()})
    with open_checkpoint(path) as source:
        assert prepare(source).settings.config.backbone == backbone
        assert {name: info.shape for name, info in source.variables.items()} == plan_of(small).variables
