"""TF Hub: a checkpoint of the official training on a module gives its outputs, and so does the module with heads."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from converter.conversion import convert_checkpoint, prepare
from converter.formats.leveldb_table import extend_crc32c
from converter.formats.trackable import VALUE, local_name
from converter.locate import open_checkpoint
from converter.readers.tensorflow.tensorbundle import OBJECT_GRAPH, TensorBundle
from effdet_torch import load_model
from effdet_torch.network.model import EfficientDet
from support.golden import error_over_rms
from support.sources import Array
from support.tiny_protos import ObjectGraph

HEADS = {"classes": "class_net/class-predict", "boxes": "box_net/box-predict"}
TOLERANCE = 1e-5  # of the root mean square; float32 has given 4.4e-6


@pytest.fixture(scope="module")
def hub(shared: Path) -> Path:
    folder = shared / "reference" / "sources" / "hub"
    if not folder.is_dir():
        pytest.skip("no official checkpoint of hub training (../shared/reference/sources/hub)")
    return folder


@pytest.fixture(scope="module")
def draw(hub: Path, seeded: ModuleType) -> Callable[..., dict[str, Array]]:
    sys.modules.setdefault("seeded_variables", seeded)
    spec = importlib.util.spec_from_file_location("seeded_extra", hub.parent / "seeded_extra.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[..., dict[str, Array]] = module.draw
    return found


def official_name(path: str) -> str:
    """Written from the facts about these keys."""
    head, _, leaf = path.rpartition("/")
    return f"{HEADS[head]}/{leaf}" if head in HEADS else local_name(path).removesuffix(":0")


def rebuild(hub: Path, folder: Path, draw: Callable[..., dict[str, Array]], view: str = "ema") -> Path:
    """Write the checkpoint again, of which the index is at hand; its checksums show that the values are the same."""
    graph = ObjectGraph()
    with TensorBundle(hub / "run_ckpt-1") as index:
        keys = {official_name(key.removesuffix(VALUE)): key for key in index.variables if key != OBJECT_GRAPH}
        values = draw({name: index.variables[key].shape for name, key in keys.items()}, view=view)
        for name, key in keys.items():
            assert (index.checksum(key) == extend_crc32c(0, values[name].tobytes())) is (view == "ema")
            graph.add(key.removesuffix(VALUE), f"some_module/{name.rsplit('/', 1)[1]}", values[name])
    (folder / "config.yaml").write_bytes((hub / "run_config.yaml").read_bytes())
    return graph.write(folder / "ckpt-1")


def rebuild_module(hub: Path, folder: Path, draw: Callable[..., dict[str, Array]], has_names: bool) -> Path:
    """Write the SavedModel of the module itself, with or without the full names in its object graph."""
    graph = ObjectGraph()
    with TensorBundle(hub / "module_variables") as index:
        keys = {official_name(key.removesuffix(VALUE)): key for key in index.variables if key != OBJECT_GRAPH}
        values = draw({name: index.variables[key].shape for name, key in keys.items()}, view="ema")
        for name, key in keys.items():
            assert index.checksum(key) == extend_crc32c(0, values[name].tobytes())
            graph.add(key.removesuffix(VALUE), name if has_names else "", values[name])
    (folder / "saved_model.pb").write_bytes(b"\x08\x01\x12\x00")
    graph.write(folder / "variables" / "variables")
    return folder


def errors(prefix: Path, hub: Path, seeded: ModuleType) -> dict[str, float]:
    """Convert, run, and return {output: largest difference over the root mean square}."""
    out = prefix.with_suffix(".pth")
    with open_checkpoint(prefix) as source:
        convert_checkpoint(prepare(source), out)
    return errors_of(load_model(out), hub, seeded)


def errors_of(model: EfficientDet, hub: Path, seeded: ModuleType) -> dict[str, float]:
    images = torch.from_numpy(seeded.random_input(128, 128)).permute(0, 3, 1, 2).contiguous()
    with torch.inference_mode():
        heads = model(images)
    oracle = np.load(hub / "run_oracle.npz")
    return {
        f"{name}_{level}": error_over_rms(output.permute(0, 2, 3, 1).numpy(), oracle[f"{name}_{level}"])
        for name, outputs in zip(("class", "box"), heads, strict=True)
        for level, output in zip(model.config.levels, outputs, strict=True)
    }


def test_the_official_checkpoint(
    tmp_path: Path, hub: Path, draw: Callable[..., dict[str, Array]], seeded: ModuleType
) -> None:
    found = errors(rebuild(hub, tmp_path, draw), hub, seeded)
    assert len(found) == 10
    assert max(found.values()) < TOLERANCE, found


def test_negative_control(tmp_path: Path, hub: Path, draw: Callable[..., dict[str, Array]], seeded: ModuleType) -> None:
    found = errors(rebuild(hub, tmp_path, draw, view="raw"), hub, seeded)
    assert min(found.values()) > 0.1


@pytest.mark.parametrize("has_names", [True, False])
def test_the_feature_vector(
    tmp_path: Path, hub: Path, draw: Callable[..., dict[str, Array]], seeded: ModuleType, has_names: bool
) -> None:
    """Its body computes the official outputs once the heads that the training put on it are in their place."""
    run, module = tmp_path / "run", tmp_path / "module"
    for folder in (run, module):
        folder.mkdir()
    rebuild(hub, run, draw)
    rebuild_module(hub, module, draw, has_names)
    models = []
    for source_path, hparams in ((run, None), (module, {"num_classes": 3})):
        with open_checkpoint(source_path) as source:
            convert_checkpoint(prepare(source, hparams=hparams), out := tmp_path / f"{source_path.name}.pth")
        models.append(load_model(out))
    trained, body = models
    assert body.metadata["source"]["kind"] == "TF2 SavedModel"
    assert body.metadata["untrained"] == ["class and box predictions"]
    assert "untrained" not in trained.metadata
    assert min(errors_of(body, hub, seeded).values()) > 0.05  # negative control: initial predictions
    predictions = {key: tensor for key, tensor in trained.state_dict().items() if ".predict." in key}
    assert len(predictions) == 6
    body.load_state_dict({**body.state_dict(), **predictions})
    found = errors_of(body, hub, seeded)
    assert max(found.values()) < TOLERANCE, found
