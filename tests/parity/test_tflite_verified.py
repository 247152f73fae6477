"""`effdet-verify --reference model.tflite`: the file runs itself, and what it computes decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import cli
from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from effdet_torch import load_model
from support.sources import small_config
from support.tflite_files import build, fill, pack
from support.tflite_graphs import listing_of
from support.tflite_samples import centred_anchors, sources
from support.variable_shapes import random_variables
from verify.errors import MissingDependencyError, ParityError
from verify.report.content.verdict import headline
from verify.results.verification import Verification
from verify.verification import Settings, verify_model

CONFIG = small_config(image_size=64, num_classes=3)
OUTPUTS_ONLY = Settings(image_size=(64, 64), dtypes=("float32",), modes=("cumulative",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of one network, with and without detections, and one of other weights; the first one, converted."""
    folder = tmp_path_factory.mktemp("tflite")
    for name, seed, detects in (("whole", 1, True), ("network", 1, False), ("other", 2, False)):
        listing = listing_of(CONFIG, detects)
        values = fill(listing, random_variables(CONFIG, seed=seed), centred_anchors(CONFIG))
        (folder / f"{name}.tflite").write_bytes(pack(build(listing, values)))
    with open_checkpoint(folder / "whole.tflite") as source:
        convert_checkpoint(prepare(source), folder / "whole.pth")
    return folder


def verified(folder: Path, reference: str, **settings: object) -> Verification:
    with open_checkpoint(folder / f"{reference}.tflite") as source:
        return verify_model(folder / "whole.pth", source, replace(OUTPUTS_ONLY, **settings))  # type: ignore[arg-type]


def test_its_own_file(folder: Path) -> None:
    result = verified(folder, "whole")
    assert result.passed
    assert result.claim.kind == "graph ran"
    assert result.audit is not None
    assert result.audit.passed
    assert result.graph is not None
    assert len(result.graph.outputs) == 6
    assert len(result.layers) > 200
    assert "found 100 boxes; the profile tflite, on the same outputs, has 100 of them" in " ".join(result.graph.notes)
    assert "both suppress a box only if its overlap is above the threshold" in " ".join(result.graph.notes)


def test_a_model_for_another_image_size(folder: Path, tmp_path: Path) -> None:
    """The file runs on an image of its own size, so its detections have anchors of that size, not the model's."""
    with open_checkpoint(folder / "whole.tflite") as source:
        convert_checkpoint(prepare(source, hparams={"image_size": 128}), tmp_path / "larger.pth")
        result = verify_model(tmp_path / "larger.pth", source, replace(OUTPUTS_ONLY, image_size=(128, 128)))
    assert result.passed
    assert result.graph is not None
    assert result.graph.image_size == (64, 64)
    assert "found 100 boxes; the profile tflite, on the same outputs, has 100 of them" in " ".join(result.graph.notes)


def test_another_file_of_the_same_network(folder: Path) -> None:
    """Batch norms are folded in it, so tensors cannot be compared: outputs are."""
    result = verified(folder, "network")
    assert result.passed
    assert result.audit is None
    assert result.layers == ()
    assert result.graph is not None
    assert "only outputs are compared" in " ".join(result.graph.notes)
    assert headline(result) == "The outputs are those of network.tflite; tensors and layers were not compared with it."
    failed = verified(folder, "other")  # negative control
    assert not failed.passed
    assert failed.graph is not None
    assert len(failed.graph.failures) == 6


def test_a_wrong_weight_fails(folder: Path, tmp_path: Path) -> None:
    content = torch.load(folder / "whole.pth", weights_only=True)
    content["state_dict"]["class_net.predict.conv_pw.weight"] *= 1.01
    torch.save(content, tmp_path / "whole.pth")
    with open_checkpoint(folder / "whole.tflite") as source:
        result = verify_model(tmp_path / "whole.pth", source, OUTPUTS_ONLY)
    assert not result.passed
    assert result.graph is not None
    assert {output.tf for output in result.graph.failures} == {"class_net/class-predict"}


def test_another_network_is_refused(folder: Path, tmp_path: Path) -> None:
    config = small_config(image_size=64, num_classes=4)
    listing = listing_of(config)
    values = fill(listing, random_variables(config, seed=1), centred_anchors(config))
    (tmp_path / "m.tflite").write_bytes(pack(build(listing, values)))
    with open_checkpoint(tmp_path / "m.tflite") as source, pytest.raises(ParityError, match="classes"):
        verify_model(folder / "whole.pth", source, OUTPUTS_ONLY)


def test_without_the_interpreter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ai_edge_litert", None)
    with pytest.raises(MissingDependencyError, match=r"runs in ai-edge-litert .*'\.\[litert\]'"):
        verified(folder, "network")


@pytest.mark.parametrize(("name", "allowed"), [pytest.param("fp16", 1e-2, marks=pytest.mark.slow), ("int8", 0.6)])
def test_precisions(shared: Path, tmp_path: Path, name: str, allowed: float) -> None:
    path = sources(shared) / f"lite0_tflite_{name}.tflite"
    with open_checkpoint(path) as source:
        convert_checkpoint(prepare(source), tmp_path / "whole.pth")
        result = verify_model(tmp_path / "whole.pth", source, replace(OUTPUTS_ONLY, modes=("fused",), graph=True))
    assert result.graph is not None
    assert result.graph.passed
    assert {output.tolerance for output in result.graph.outputs} == {allowed}
    assert "has 100 of them" in " ".join(result.graph.notes)


def test_commands(folder: Path, tmp_path: Path) -> None:
    runner = CliRunner()

    def run(command: Callable[..., object], *words: object) -> str:
        result = runner.invoke(command, [str(word) for word in words])  # type: ignore[arg-type]
        assert result.exit_code == 0, result.output
        return result.output

    out = tmp_path / "out.safetensors"
    assert "TensorFlow Lite model" in run(cli.convert, folder / "whole.tflite", out)
    assert "batch norms are folded" in run(cli.inspect, folder / "whole.tflite", "--json")
    assert load_model(out).config.num_classes == 3
    broken = tmp_path / "broken.tflite"
    broken.write_bytes((folder / "whole.tflite").read_bytes()[:1000])
    failed = runner.invoke(cli.convert, [str(broken), str(tmp_path / "broken.pth")])
    assert failed.exit_code == 1
    assert len(failed.output.strip().splitlines()) == 1
    assert not (tmp_path / "broken.pth").exists()
