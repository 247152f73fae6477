"""`effdet-convert` as its users run it."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import support.tiny_bundle as tiny
from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from converter.readers.tensorflow.tensorbundle import TensorBundle
from converter.writers.targets import choose_target
from effdet_torch import create_model
from support.commands import run, script
from support.sources import EMA, averages, initial, plan_of, seeded, small_config, write_checkpoint

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def trained(shared: Path) -> Path:
    return shared / "trained_d0_256"


@pytest.fixture(scope="module")
def converted(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A folder with the trained checkpoint in both formats, converted with no option at all."""
    folder = tmp_path_factory.mktemp("converted")
    done = run("effdet-convert", trained, "d0.pth", cwd=folder)
    assert run("effdet-convert", trained, "d0.safetensors", cwd=folder).returncode == 0
    return folder, done


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint with both copies, quick to read; its architecture is no official one."""
    plan = plan_of(small_config())
    arrays = {**seeded(plan), **averages(seeded(plan, 1)), "global_step": np.array(7, np.int64)}
    return write_checkpoint(tmp_path_factory.mktemp("small") / "model.ckpt-7", arrays)


def failed(done: Done, code: int) -> str:
    """Return the message of a run that ended with an exit code; it is one message, not a traceback."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "Error: " in done.stderr
    return done.stderr


def test_converts_with_no_option(converted: tuple[Path, Done]) -> None:
    folder, done = converted
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "d0, 90 classes, 9 anchors per location, 256 x 256 pixels, " in lines["model"]
    assert "ema: the checkpoint has averages (EMA), which the official results use" in lines["weights"]
    assert "1912: 709 converted (36 biases folded into batch norms), 709 other copies" in lines["variables"]
    assert lines["result"].split(maxsplit=1)[1].startswith("d0.pth: 748 tensors, ")
    assert {path.name for path in folder.iterdir()} == {"d0.pth", "d0.safetensors"}


@pytest.mark.parametrize(
    ("out", "options", "arguments"),
    [
        ("m.pth", [], {}),
        ("m.safetensors", [], {}),
        ("m.h5", [], {}),
        ("m", ["--to", "tf1"], {"to": "tf1"}),
        ("m.pth", ["--layout", "effdet"], {"bare": True}),
        ("m.pth", ["--keep-redundant-bias", "--weights", "raw"], {"keep_redundant_bias": True, "weights": "raw"}),
    ],
)
def test_python_writes_the_files_of_the_command(
    small: Path, tmp_path: Path, out: str, options: list[str], arguments: dict[str, Any]
) -> None:
    (tmp_path / "command").mkdir()
    (tmp_path / "python").mkdir()
    assert run("effdet-convert", small, tmp_path / "command" / out, *options, cwd=tmp_path).returncode == 0
    target, bare = choose_target(tmp_path / "python" / out, arguments.pop("to", None)), arguments.pop("bare", False)
    with open_checkpoint(small) as source:
        convert_checkpoint(prepare(source, **arguments), tmp_path / "python" / out, target=target, bare=bare)
    contents = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "command", tmp_path / "python")
    ]
    assert contents[0] == contents[1]
    assert contents[0]


def test_the_live_model_loads_it_strictly(converted: tuple[Path, Done], trained: Path) -> None:
    loaded = torch.load(converted[0] / "d0.pth", weights_only=True, mmap=True)
    with torch.device("meta"):
        model = create_model("d0")
    model.load_state_dict(loaded["state_dict"], strict=True, assign=True)
    with TensorBundle(trained / "model.ckpt-780") as source:
        raw = source.read("class_net/class-predict/pointwise_kernel")
        ema = source.read(f"class_net/class-predict/pointwise_kernel/{EMA}")
    weight = model.state_dict()["class_net.predict.conv_pw.weight"][:, :, 0, 0].numpy()
    assert np.array_equal(weight, ema[0, 0].T)
    assert not np.array_equal(weight, raw[0, 0].T)  # negative control: the copies differ


def test_both_formats_hold_the_same(converted: tuple[Path, Done]) -> None:
    pth = torch.load(converted[0] / "d0.pth", weights_only=True)["state_dict"]
    safetensors = load_file(converted[0] / "d0.safetensors")
    assert pth.keys() == safetensors.keys()
    assert all(torch.equal(pth[key], safetensors[key]) and pth[key].dtype == safetensors[key].dtype for key in pth)


def test_the_file_says_where_it_came_from(converted: tuple[Path, Done], trained: Path) -> None:
    metadata = torch.load(converted[0] / "d0.pth", weights_only=True)["metadata"]
    index = trained / "model.ckpt-780.index"
    assert metadata["variant"] == "d0"
    assert metadata["config"]["image_size"] == [256, 256]
    assert metadata["config_origins"]["image_size"] == "config.yaml"
    assert metadata["source"]["name"] == "trained_d0_256"
    digests = {file["name"]: file["sha256"] for file in metadata["source"]["files"]}
    assert digests[index.name] == hashlib.sha256(index.read_bytes()).hexdigest()
    assert len(digests) == 2


def test_a_second_run_gives_the_same_bytes(converted: tuple[Path, Done], trained: Path, tmp_path: Path) -> None:
    run("effdet-convert", trained, "other.pth", cwd=tmp_path)
    assert (tmp_path / "other.pth").read_bytes() == (converted[0] / "d0.pth").read_bytes()


@pytest.mark.parametrize("name", ["", "model.ckpt-780", "model.ckpt-780.index", "checkpoint"])
def test_the_source_has_many_names(trained: Path, tmp_path: Path, name: str) -> None:
    done = run("effdet-convert", trained / name, "--dry-run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "complete: 748 tensors would be written (dry run)" in done.stdout


def test_a_relative_source_and_output(small: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    done = run("effdet-convert", small.name, tmp_path / "out" / "m.safetensors", cwd=small.parent)
    assert done.returncode == 0
    assert load_file(tmp_path / "out" / "m.safetensors")


def test_a_dry_run_needs_the_index_alone(trained: Path, tmp_path: Path) -> None:
    shutil.copy(trained / "model.ckpt-780.index", tmp_path / "model.index")
    done = run("effdet-convert", "model.index", "--dry-run", "--report", "report.json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["ok"], report["dry_run"], report["out"], report["tensors"]) == (True, True, None, 748)
    assert {path.name for path in tmp_path.iterdir()} == {"model.index", "report.json"}
    # The same without --dry-run cannot work, and says which file is missing.
    message = failed(run("effdet-convert", "model.index", "d0.pth", cwd=tmp_path), 1)
    assert "model.data-00000-of-00001" in message
    assert {path.name for path in tmp_path.iterdir()} == {"model.index", "report.json"}


def test_a_dry_run_writes_no_output(small: Path, tmp_path: Path) -> None:
    assert run("effdet-convert", small, "m.pth", "--dry-run", cwd=tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_report_of_success(small: Path, tmp_path: Path) -> None:
    done = run("effdet-convert", small, "m.pth", "--report", "report.json", "--weights", "raw", cwd=tmp_path)
    assert done.returncode == 0
    report = json.loads((tmp_path / "report.json").read_text())
    size = (tmp_path / "m.pth").stat().st_size
    assert (report["ok"], report["out"]) == (True, {"path": "m.pth", "size_bytes": size})
    assert report["view"] == {"name": "raw", "reason": "asked for"}
    accounting = report["accounting"]
    parts = (accounting["consumed"], accounting["other_view"], accounting["ignored"])
    assert sum(map(len, parts)) == accounting["variables"]
    assert report["source"]["files"][0].keys() == {"name", "size_bytes", "sha256"}


def test_a_report_of_failure_lists_every_problem(tmp_path: Path) -> None:
    arrays = seeded(plan_of(small_config()))
    gone = [name for name in arrays if name.startswith("fpn_cells/cell_0/fnode1/")]
    write_checkpoint(tmp_path / "model", {name: array for name, array in arrays.items() if name not in gone})
    done = run("effdet-convert", "model", "m.pth", "--report", "report.json", cwd=tmp_path)
    message = failed(done, 1)
    assert f"model is not a complete d0: {len(gone)} missing, 0 unexpected, 0 mismatched" in message
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["ok"] is False
    assert report["error"] == message.removeprefix("Error: ").rstrip("\n")
    assert sorted(report["problems"]) == sorted(f"missing: {name}" for name in gone)
    assert not (tmp_path / "m.pth").exists()


def test_a_wrong_variant_is_told_what_it_looks_like(trained: Path, tmp_path: Path) -> None:
    message = failed(run("effdet-convert", trained, "m.pth", "--variant", "d1", cwd=tmp_path), 1)
    assert "not d1: backbone efficientnet-b0 (expected efficientnet-b1)" in message
    assert "the checkpoint looks like d0: try --variant d0" in message
    assert list(tmp_path.iterdir()) == []
    assert run("effdet-convert", trained, "m.pth", "--variant", "d0", "--dry-run", cwd=tmp_path).returncode == 0


def test_options_change_the_result(small: Path, tmp_path: Path) -> None:
    options = ("--keep-redundant-bias", "--hparams", "image_size=640x384,anchor_scale=3.0")
    assert run("effdet-convert", small, "m.pth", *options, cwd=tmp_path).returncode == 0
    loaded = torch.load(tmp_path / "m.pth", weights_only=True)
    assert "class_net.conv_rep.0.conv_pw.bias" in loaded["state_dict"]
    assert loaded["metadata"]["redundant_bias"] == "kept"
    assert loaded["metadata"]["config"]["image_size"] == [384, 640]
    assert loaded["metadata"]["config_origins"]["anchor_scale"] == "--hparams"


def test_untrained_averages_are_refused_and_raw_values_are_not(tmp_path: Path) -> None:
    plan = plan_of(small_config())
    write_checkpoint(tmp_path / "model", {**seeded(plan), **averages(initial(plan))})
    message = failed(run("effdet-convert", "model", "m.pth", cwd=tmp_path), 1)
    assert "the EMA slots hold initial values" in message
    assert "use --weights raw" in message
    assert run("effdet-convert", "model", "m.pth", "--weights", "raw", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Missing argument 'SOURCE'"),
        (("SMALL",), "OUT is missing: name the file to write, or use --dry-run"),
        (("SMALL", "m.pth", "--varaint", "d0"), "No such option"),
        (("SMALL", "m.pth", "--weights", "both"), "'both' is not one of 'ema', 'raw'"),
        (("SMALL", "m.pth", "extra"), "unexpected extra argument"),
        (("SMALL", "m.pth", "--variant", "d9"), "unknown variant 'd9'; known variants: d0, d1"),
        (("SMALL", "m.pth", "--variant", "d7y"), "did you mean 'd7'?"),
        (("SMALL", "m.pth", "--hparams", "image_size"), "hyperparameter 'image_size' is not of the form key=value"),
        (("SMALL", "m.pth", "--hparams", "absent.yaml"), "absent.yaml cannot be read"),
        (("SMALL", "m.pth", "--hparams", "separable_conv=False"), "which is unsupported"),
        (("SMALL", "m.bin"), "m.bin ends in '.bin'; expected one of .pth, .pt, .safetensors"),
        (("SMALL", "absent/m.pth"), "the folder absent does not exist; create it first"),
        (("SMALL", "m.pth", "--report", "absent/r.json"), "the folder absent does not exist; create it first"),
        (("SMALL", "m.pth", "--report", "."), "is a directory"),
    ],
)
def test_wrong_usage_is_exit_code_2(small: Path, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = run("effdet-convert", *(str(small) if word == "SMALL" else word for word in arguments), cwd=tmp_path)
    message = " ".join(failed(done, 2).split())
    assert words in message
    assert list(tmp_path.iterdir()) == []


def v1_checkpoint() -> bytes:
    return tiny.table({b"": tiny.nested(1, b"")})


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.ckpt", v1_checkpoint(), "this is a TensorFlow V1 checkpoint"),
        ("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        ("frozen.pb", b"\x0a\x10\x0a\x05input" + bytes(50), "this is a frozen graph"),
        ("model.tflite", b"\x1c\0\0\0TFL3" + bytes(50), "this is a TensorFlow Lite model"),
        ("model.onnx", b"\x08\x07" + bytes(50), "this is an ONNX model"),
        ("model.pth", b"\x80\x02}q\x00.", "a pickle, but not one of torch.save"),
        ("model.index", b"<!DOCTYPE html><html></html>", "web page"),
        ("model.zip", b"PK\x03\x04" + bytes(50), "this is a zip archive"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_formats_are_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert words in failed(run("effdet-convert", name, "m.pth", cwd=tmp_path), 1)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_saved_model_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"\x08\x01\x12\x00")
    message = failed(run("effdet-convert", folder, "m.pth", cwd=tmp_path), 1)
    assert "this is a SavedModel" in message
    assert "Pass the checkpoint that it was exported from" in message


@pytest.mark.parametrize("name", ["absent", "absent/model.ckpt-1", "absent.index"])
def test_a_source_that_is_not_there(tmp_path: Path, name: str) -> None:
    assert "no such file" in failed(run("effdet-convert", name, "m.pth", cwd=tmp_path), 1)


def test_another_network_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", {"resnet/kernel": np.zeros((1, 2), np.float32)})
    message = failed(run("effdet-convert", "model", "m.pth", cwd=tmp_path), 1)
    assert "It looks like the classifier or backbone resnet, which is not supported" in message
    assert "(resnet/kernel)" in message


def test_a_failure_in_the_middle_keeps_the_old_output(tmp_path: Path) -> None:
    prefix = write_checkpoint(tmp_path / "model", seeded(plan_of(small_config())))
    (tmp_path / "m.pth").write_bytes(b"precious")
    data = Path(f"{prefix}.data-00000-of-00001")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    before = {path.name for path in tmp_path.iterdir()}
    message = failed(run("effdet-convert", "model", "m.pth", cwd=tmp_path), 1)
    assert "model.data-00000-of-00001" in message
    assert (tmp_path / "m.pth").read_bytes() == b"precious"
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_full_disk_keeps_the_old_output(small: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the kernel refuses in the middle of the file."""
    if sys.platform == "win32":
        pytest.skip("no file size limits on Windows")
    (tmp_path / "m.pth").write_bytes(b"precious")
    line = f'ulimit -f 1000; exec "{script("effdet-convert")}" "{small}" m.pth'
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "m.pth cannot be written: File too large; nothing was changed" in failed(done, 1)
    assert (tmp_path / "m.pth").read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == ["m.pth"]


@pytest.mark.parametrize(
    ("out", "options", "report"),
    [
        ("out.pth", [], "out.pth"),
        ("out.pth", [], "./link.json"),
        ("out", ["--to", "tf1"], "out"),
        ("out", ["--to", "tf1"], "out/report.json"),
        ("out.pth", [], "source/model.index"),
    ],
)
def test_a_report_never_takes_the_place_of_what_it_reports_on(
    tmp_path: Path, out: str, options: list[str], report: str
) -> None:
    write_checkpoint(tmp_path / "model", seeded(plan_of(small_config())))
    (tmp_path / "source").mkdir()
    for path in list(tmp_path.glob("model.*")):
        path.rename(tmp_path / "source" / path.name)
    (tmp_path / "link.json").symlink_to(tmp_path / "out.pth")
    if report.startswith("out/"):
        (tmp_path / "out").mkdir()
    before = {path: path.read_bytes() for path in (tmp_path / "source").iterdir()}
    done = run("effdet-convert", "source/model", out, *options, "--report", report, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "would overwrite SOURCE or OUT" in done.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "source").iterdir()} == before
    assert not (tmp_path / "out.pth").exists()
