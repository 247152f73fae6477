"""The way back: TensorFlow and Keras read what is written for them, and compute the same outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from converter.writers.keras_h5 import keras_layers, write_keras_h5
from converter.writers.specs import TensorSpec
from converter.writers.targets import TARGETS
from effdet_torch.config import get_config
from effdet_torch.file_format import METADATA_KEY
from support.keras_model import Arrays, detector, keras, tf
from support.reference import built_in
from support.sources import EMA, averages, plan_of, seeded, write_checkpoint
from verify.verification import Settings, verify_model

PLAN = plan_of("d0")


def convert(source: Path, out: Path, to: str = "pth", keep_redundant_bias: bool = False) -> Path:
    with open_checkpoint(source) as opened:
        convert_checkpoint(prepare(opened, keep_redundant_bias=keep_redundant_bias), out, target=TARGETS[to])
    return out


def checkpoint(folder: Path, variables: Arrays) -> Path:
    folder.mkdir()
    write_checkpoint(folder / "model.ckpt-7", variables)
    return folder


def read_by_tensorflow(folder: Path) -> dict[str, NDArray[Any]]:
    reader = tf.train.load_checkpoint(str(folder))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def different(found: Arrays, expected: Arrays) -> list[str]:
    return [name for name in expected if found[name].tobytes() != expected[name].tobytes()]


@pytest.mark.parametrize("to", ["pth", "safetensors"])
def test_tf_to_pytorch_to_tf_is_bitwise_the_original(tmp_path: Path, to: str) -> None:
    raw, ema = seeded(PLAN, 0), seeded(PLAN, 1)
    start = checkpoint(tmp_path / "start", {**raw, **averages(ema)})
    model = convert(start, tmp_path / f"model.{to}", to, keep_redundant_bias=True)
    found = read_by_tensorflow(convert(model, tmp_path / "back", "tf1"))
    assert found.keys() == {*PLAN.variables, *averages(ema), "global_step"}
    assert different(found, {**ema, **averages(ema)}) == []
    assert found["global_step"].dtype == np.int64
    assert len(different(found, raw)) == len(raw)  # negative control: the copy that was not converted


def test_the_trained_checkpoint_comes_back(shared: Path, tmp_path: Path) -> None:
    start = shared / "trained_d0_256"
    original = read_by_tensorflow(start)
    kept = convert(start, tmp_path / "kept.pth", keep_redundant_bias=True)
    found = read_by_tensorflow(convert(kept, tmp_path / "kept", "tf1"))
    expected = {name.removesuffix(f"/{EMA}"): array for name, array in original.items() if name.endswith(EMA)}
    assert len(expected) == 709
    assert different(found, expected) == []

    folded = convert(start, tmp_path / "folded.pth")
    found = read_by_tensorflow(convert(folded, tmp_path / "folded", "tf1"))
    changed = different(found, expected)
    entries = [entry for entry in PLAN.entries if entry.folds is not None]
    assert set(changed) <= {*(entry.sources[0] for entry in entries), *(str(entry.folds) for entry in entries)}
    assert all(not found[str(entry.folds)].any() for entry in entries)
    # The function is the same, and the converted file is equal to the new checkpoint, layer by layer.
    images = np.random.default_rng(0).standard_normal((1, 64, 64, 3), np.float32)
    config = get_config("d0", image_size=256)
    outputs = [built_in(config, variables, "float64").outputs(images) for variables in (expected, found)]
    for level, logits in outputs[0].class_logits.items():
        other = outputs[1].class_logits[level]
        assert np.abs(logits - other).max() < 1e-5 * np.abs(logits).max()  # one float32 rounding of every mean
    with open_checkpoint(tmp_path / "folded") as source:
        settings = Settings(image_size=(64, 64), dtypes=("float64",), modes=("isolated",))
        assert verify_model(folded, source, settings).passed


def test_every_source_can_go_to_every_target(shared: Path, tmp_path: Path) -> None:
    start = shared / "trained_d0_256"
    h5 = convert(start, tmp_path / "a.h5", "h5")
    folder = convert(h5, tmp_path / "b", "tf1")
    with open_checkpoint(shared / "trained_d0_256" / "efficientdet-d0_ema.h5") as official, open_checkpoint(h5) as ours:
        assert all(official.read(name).tobytes() == ours.read(name).tobytes() for name in official.variables)
        assert official.variables == ours.variables
    assert different(read_by_tensorflow(folder), read_by_tensorflow(convert(start, tmp_path / "c", "tf1"))) == []


# Keras.


def official_order(shared: Path) -> list[str]:
    lines = (shared / "reference" / "dialects" / "d0_keras_h5.keys.txt").read_text().splitlines()
    return [line.split("\t")[1].removesuffix(":0") for line in lines if line.count("\t") == 3]


def names_in(path: Path) -> dict[str, list[str]]:
    def texts(values: Any) -> list[str]:
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values]

    with h5py.File(path) as file:
        return {layer: texts(file[layer].attrs["weight_names"]) for layer in texts(file.attrs["layer_names"])}


def test_layers_and_weights_are_in_the_official_order(shared: Path, tmp_path: Path) -> None:
    out = convert(shared / "trained_d0_256", tmp_path / "model.h5", "h5")
    assert names_in(out) == names_in(shared / "trained_d0_256" / "efficientdet-d0_ema.h5")
    layers = keras_layers(PLAN)
    assert list(layers) == ["efficientnet-b0", "resample_p6", "resample_p7", "fpn_cells", "class_net", "box_net"]
    assert [name for names in layers.values() for name in names] == official_order(shared)
    assert sorted(official_order(shared)) == sorted(PLAN.variables)
    assert list(PLAN.variables) != official_order(shared)  # negative control: the table has another order


def test_keras_loads_the_file(shared: Path, tmp_path: Path) -> None:
    """Keras loads by order alone: in a model built in the official order, every weight must be in its place."""
    variables = seeded(PLAN, 3)
    out = convert(checkpoint(tmp_path / "start", variables), tmp_path / "model.h5", "h5")
    model = detector({name: np.zeros_like(variables[name]) for name in official_order(shared)})
    model.load_weights(out)
    found = {variable.name.removesuffix(":0"): variable.numpy() for variable in model.variables}
    assert found.keys() == variables.keys()
    assert different(found, variables) == []

    # Negative control: in another order, Keras loads wrong values.
    with h5py.File(out, "r+") as file:
        names = list(file["class_net"].attrs["weight_names"])
        place = names.index(b"class_net/class-0-bn-3/gamma:0")
        names[place], names[place + 1] = names[place + 1], names[place]
        file["class_net"].attrs["weight_names"] = names
    model.load_weights(out)
    found = {variable.name.removesuffix(":0"): variable.numpy() for variable in model.variables}
    assert different(found, variables) == ["class_net/class-0-bn-3/gamma", "class_net/class-0-bn-3/beta"]
    keras.backend.clear_session()


def test_long_lists_are_split_as_keras_does(tmp_path: Path) -> None:
    from tf_keras.src.saving.legacy.hdf5_format import load_attributes_from_hdf5_group

    names = [f"net/blocks_{number}/conv2d/{'x' * 60}" for number in range(2000)]
    arrays = {name: np.float32(number) for number, name in enumerate(names)}
    specs = {name: TensorSpec(np.dtype(np.float32), ()) for name in names}
    with (tmp_path / "long.h5").open("w+b") as stream:
        write_keras_h5(stream, {"empty": [], "net": names}, specs, arrays.items(), None)
    with h5py.File(tmp_path / "long.h5") as file:
        assert sorted(file["net"].attrs) == ["weight_names0", "weight_names1", "weight_names2"]
        assert load_attributes_from_hdf5_group(file["net"], "weight_names") == [f"{name}:0" for name in names]
        assert load_attributes_from_hdf5_group(file, "layer_names") == ["empty", "net"]
        assert load_attributes_from_hdf5_group(file["empty"], "weight_names") == []
        assert METADATA_KEY not in file.attrs
    with open_checkpoint(tmp_path / "long.h5") as source:
        assert {name: source.read(name) for name in source.variables} == arrays
