"""`effdet-verify` through a real shell: a proof, a broken file, and requests that cannot be meant."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from converter.readers.tensorflow.tensorbundle import TensorBundle
from converter.writers.pth import write_pth
from converter.writers.specs import TensorSpec
from effdet_torch.network.model_file import read_model_file
from support.commands import run, run_here, script
from support.graphs import write_meta
from support.sources import small_config, write_checkpoint
from support.variable_shapes import random_variables

QUICK = ("--image-size", "65", "--dtype", "float32")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the verified demonstration of lite0 in `demo/`."""
    folder = tmp_path_factory.mktemp("verify")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
        done = run("effdet-verify", "--demo", "lite0", *QUICK, "--report-dir", "demo", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PASS")
    assert all(line.startswith("wrote demo/") for line in done.stderr.splitlines()), done.stderr
    return folder


def test_the_demo_leaves_a_checkpoint_a_model_and_four_reports(demo: Path) -> None:
    names = {path.name for path in (demo / "demo").iterdir()}
    assert names == {"checkpoint", "lite0.pth", "report.html", "report.json", "junit.xml", "summary.md"}
    report = json.loads((demo / "demo" / "report.json").read_text())
    assert report["passed"]
    assert {layer["mode"] for layer in report["layers"]} == {"cumulative", "isolated", "fused"}
    assert set(report["audit"]["checksums"].values()) == {"equal"}


def test_the_config_of_the_demo_has_only_names_of_the_official_code(demo: Path) -> None:
    hparams = yaml.safe_load((demo / "demo" / "checkpoint" / "config.yaml").read_text())
    assert hparams["name"] == "efficientdet-lite0"
    assert not hparams.keys() & {"padding", "backbone_style", "resampling", "taps", "resize"}


def test_a_changed_value_fails_at_its_layer(demo: Path) -> None:
    tensors, metadata = read_model_file(demo / "demo" / "lite0.pth")
    tensors["fpn.cell.1.fnode.2.after_combine.conv.conv_pw.weight"][3, 4] += 1
    arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
    specs = {key: TensorSpec(array.dtype, array.shape) for key, array in arrays.items()}
    with (demo / "changed.pth").open("wb") as stream:
        write_pth(stream, specs, arrays.items(), metadata)
    words = ["changed.pth", "--reference", "demo/checkpoint", *QUICK, "--report-dir", "changed"]
    done = run_here("effdet-verify", *words, cwd=demo)
    assert done.returncode == 1
    assert done.stdout.startswith("FAIL")
    report = json.loads((demo / "changed" / "report.json").read_text())
    failed = [layer["tf"] for layer in report["layers"] if layer["mode"] == "isolated" and not layer["passed"]]
    assert failed == ["fpn_cells/cell_1/fnode2/op_after_combine7/conv", "fpn_cells/cell_1/fnode2"]
    assert [finding["tensor"] for finding in report["audit"]["findings"]] == [
        "fpn.cell.1.fnode.2.after_combine.conv.conv_pw.weight"
    ]
    assert report["diagnoses"][0]["tensor"] == "fpn.cell.1.fnode.2.after_combine.conv.conv_pw.weight"


def test_the_fused_network_alone_needs_no_tensorflow(demo: Path) -> None:
    words = ["demo/lite0.pth", "--reference", "demo/checkpoint", "--image-size", "65", "--fused", "-v"]
    done = run_here("effdet-verify", *words, "--report-dir", "fused", cwd=demo)
    assert done.returncode == 0, done.stderr
    assert "All layers agree in what was run: fused, float64 and float32 only." in done.stdout
    assert "TensorFlow's network is ready" not in done.stderr
    report = json.loads((demo / "fused" / "report.json").read_text())
    assert {layer["mode"] for layer in report["layers"]} == {"fused"}
    assert {(layer["torch"], layer["level"]) for layer in report["layers"]} >= {
        ("backbone.bn1", None),
        *((f"{head}_net.predict", level) for head in ("class", "box") for level in range(3, 8)),
    }
    assert report["reference"]["name"] == "the same network before it was fused"


def test_unusable_values_are_said_in_the_first_line_even_if_the_checkpoint_has_them(demo: Path) -> None:
    variable, tensor = "class_net/class-predict/bias", "class_net.predict.conv_pw.bias"
    with TensorBundle(demo / "demo" / "checkpoint" / "model") as bundle:
        arrays = {name: np.array(bundle.read(name)) for name in bundle.variables}
    arrays[variable][7] = arrays[f"{variable}/ExponentialMovingAverage"][7] = np.nan
    write_checkpoint(demo / "diverged.ckpt", arrays)
    done = run_here("effdet-convert", "diverged.ckpt", "diverged.pth", "--variant", "lite0", cwd=demo)
    assert (done.returncode, (demo / "diverged.pth").exists()) == (1, False)
    assert variable in done.stderr
    done = run_here("effdet-convert", "diverged.ckpt", "diverged.pth", "--allow-nonfinite", cwd=demo)
    assert done.returncode == 0, done.stderr
    assert "accepted by --allow-nonfinite" in done.stdout
    Image.new("RGB", (64, 64)).save(demo / "photo.png")
    done = run_here("effdet-detect", "diverged.pth", "photo.png", cwd=demo)
    assert (done.returncode, tensor in done.stderr) == (1, True)
    done = run_here("effdet-verify", "diverged.pth", "--reference", "diverged.ckpt", *QUICK, cwd=demo)
    assert done.returncode == 1, done.stderr
    assert f"no network can use: {tensor}: 1 of 810 values are not finite" in " ".join(done.stdout.split())[:200]


def test_a_reference_of_another_variant(demo: Path, shared: Path) -> None:
    words = ["demo/lite0.pth", "--reference", shared / "trained_d0_256", *QUICK]
    done = run("effdet-verify", *words, cwd=demo)
    assert done.returncode == 1
    assert "its backbone is efficientnet-b0, the model's efficientnet-lite0" in done.stderr


@pytest.mark.slow
def test_a_graph_that_computes_something_else(tmp_path: Path) -> None:
    """The graph has another activation than the file assumes, which no variable shows."""
    config = small_config(image_size=(64, 64))
    values = random_variables(config)
    write_meta(tmp_path / "model", replace(config, activation="relu6"), values, values)
    converted = run_here("effdet-convert", "model", "model.pth", "--hparams", "image_size=64", cwd=tmp_path)
    assert converted.returncode == 0, converted.stderr
    words = ["model.pth", "--reference", "model", *QUICK, "--mode", "cumulative"]

    done = run_here("effdet-verify", *words, "--report-dir", "report", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    differ = "computes other outputs: class head P3, P4, P5; box head P3, P4, P5."
    assert f"TensorFlow's own graph (model.meta) {differ}" in " ".join(done.stdout.split())
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert (report["passed"], report["graph"]["passed"]) == (False, False)
    assert all(layer["passed"] for layer in report["layers"])

    done = run_here("effdet-verify", *words, "--no-graph", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PASS - rests on ")
    assert "which ran" not in done.stdout
    done = run_here("effdet-verify", *words, "--no-graph", "--require", "graph", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "--require graph asks for more" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["demo/lite0.pth"], 2, "--reference"),
        (["demo/lite0.pth", "--coco", "demo", "--fused"], 2, "--fused cannot be combined with --coco"),
        (["--demo", "d9"], 2, "unknown variant 'd9'"),
        (["demo/lite0.pth", "--reference", "demo/checkpoint", "--image-size", "wide"], 2, "WIDTHxHEIGHT"),
        (["demo/lite0.pth", "--reference", "demo/checkpoint", "--image-size", "400x8"], 2, "two integers from 32"),
        (["demo/lite0.pth", "--reference", "demo/checkpoint", "--seed", "-1"], 2, "seed is -1; expected at least 0"),
        (["demo/checkpoint/model.index", "--reference", "demo/checkpoint"], 1, "is not a model file"),
        (["absent.pth", "--reference", "demo/checkpoint"], 1, "absent.pth"),
        (
            ["demo/lite0.pth", "--reference", "demo/checkpoint", "--graph"],
            1,
            "no inference graph belongs to the source checkpoint",
        ),
    ],
)
def test_one_clear_line(demo: Path, words: list[str], code: int, text: str) -> None:
    done = run_here("effdet-verify", *words, cwd=demo)
    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("columns", ["0", pytest.param("80", marks=pytest.mark.slow)])
def test_the_width_of_the_terminal_counts_and_not_a_setting(demo: Path, columns: str) -> None:
    master, terminal = os.openpty()
    words = [script("effdet-verify"), "demo/lite0.pth", "--reference", "demo/checkpoint", *QUICK, "--mode", "isolated"]
    subprocess.run(words, cwd=demo, stdout=terminal, check=True, env=os.environ | {"COLUMNS": columns}, timeout=120)
    os.close(terminal)
    assert os.read(master, 100_000).count(b"PASS") == 1
    os.close(master)


@pytest.mark.slow
def test_quiet_prints_the_verdict_alone(demo: Path) -> None:
    words = ["demo/lite0.pth", "--reference", "demo/checkpoint", *QUICK, "--report-dir", "quiet"]
    done = run_here("effdet-verify", *words, "-q", cwd=demo)
    assert (done.returncode, done.stdout) == (0, "PASS - rests on config.yaml\n")
    assert "wrote" not in done.stderr  # TensorFlow may print there what no setting switches off
    assert "wrote quiet/report.html" in run_here("effdet-verify", *words, cwd=demo).stderr


@pytest.mark.slow
def test_a_demo_is_found_under_the_short_name(tmp_path: Path) -> None:
    done = run_here(
        "effdet-verify", "--demo", "TF_EfficientDet_Lite0", *QUICK, "--mode", "isolated", "-q", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "effdet-demo-lite0" / "lite0.pth").is_file()
