"""TF Hub: a checkpoint of the official training on a module gives its outputs, and so does the module with heads."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from effdet_torch import load_model
from effdet_torch.network.model import EfficientDet
from support.golden import error_over_rms
from support.hub import Draw, hub_folder, load_draw, write_module, write_training

TOLERANCE = 1e-5  # of the root mean square; float32 has given 4.4e-6


@pytest.fixture(scope="module")
def hub(shared: Path) -> Path:
    return hub_folder(shared)


@pytest.fixture(scope="module")
def draw(hub: Path, seeded: ModuleType) -> Draw:
    return load_draw(hub, seeded)


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


def test_the_official_checkpoint(tmp_path: Path, hub: Path, draw: Draw, seeded: ModuleType) -> None:
    found = errors(write_training(hub, tmp_path, draw), hub, seeded)
    assert len(found) == 10
    assert max(found.values()) < TOLERANCE, found


def test_negative_control(tmp_path: Path, hub: Path, draw: Draw, seeded: ModuleType) -> None:
    found = errors(write_training(hub, tmp_path, draw, view="raw"), hub, seeded)
    assert min(found.values()) > 0.1


@pytest.mark.parametrize("has_names", [True, False])
def test_the_feature_vector(tmp_path: Path, hub: Path, draw: Draw, seeded: ModuleType, has_names: bool) -> None:
    """Its body computes the official outputs once the heads that the training put on it are in their place."""
    run, module = tmp_path / "run", tmp_path / "module"
    write_training(hub, run, draw)
    write_module(hub, module, draw, has_names)
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
