"""Official names and URLs, as a user types them, against a server on this machine."""

from __future__ import annotations

import os
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from converter.identify.families import BACKBONE
from effdet_torch.config import BackboneConfig
from effdet_torch.network.model_file import read_model_file
from support.commands import run, run_here
from support.sources import averages, seeded, small_config, write_checkpoint
from verify.seeded import write_seeded_checkpoint

PATHS = ("coco2/efficientdet-d0.tar.gz", "advprop/efficientdet-d0.tar.gz", "coco640/efficientdet-d6-640.tar.gz")
CLASSIFIER = "efficientnet/noisystudent/noisy_student_efficientnet-b0.tar.gz"


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; the first answer for a path in `broken` ends in the middle."""

    broken: set[str]
    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.path)
        super().do_GET()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        if self.path in self.broken:
            self.broken.remove(self.path)
            outputfile.write(source.read(1_000_000))
        else:
            super().copyfile(source, outputfile)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


class Mirror:
    """The server and its address."""

    def __init__(self, folder: Path) -> None:
        self.handler = type("TheHandler", (Handler,), {"broken": set(), "requests": []})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(self.handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("server")
    for path in PATHS:
        backbone = {"backbone": "efficientnet-b6"} if "d6" in path else {}
        checkpoint = write_seeded_checkpoint(small_config(**backbone), root / "checkpoints" / path).parent
        (root / path).parent.mkdir(exist_ok=True)
        with tarfile.open(root / path, "w:gz", compresslevel=0) as archive:
            archive.add(checkpoint, Path(path).name.removesuffix(".tar.gz"))
    return root


@pytest.fixture(scope="module")
def with_classifier(folder: Path) -> Path:
    """The folder with a classifier's checkpoint: raw values, averages, and the layers behind the backbone."""
    backbone = seeded(BACKBONE.plan(BackboneConfig("efficientnet-b0")))
    head = {"efficientnet-b0/head/dense/kernel": np.zeros((1280, 10), np.float32)}
    network = {**backbone, **head}
    prefix = folder / "checkpoints" / "noisy_student_efficientnet-b0" / "model.ckpt"
    prefix.parent.mkdir(parents=True)
    write_checkpoint(prefix, {**network, **averages(network), "global_step": np.array(1, np.int64)})
    (folder / CLASSIFIER).parent.mkdir(parents=True)
    with tarfile.open(folder / CLASSIFIER, "w:gz", compresslevel=0) as archive:
        archive.add(prefix.parent, prefix.parent.name)
    return folder


@pytest.fixture
def mirror(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """The server that commands take for the official one."""
    mirror = Mirror(folder)
    for name, value in {"OFFICIAL_URL": mirror.url, "CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(f"EFFDET_{name}", value)
    monkeypatch.setenv("no_proxy", "*")
    yield mirror
    mirror.stop()


def test_a_name_is_downloaded_once(mirror: Mirror, tmp_path: Path) -> None:
    path = f"/{PATHS[0]}"
    mirror.handler.broken.add(path)
    done = run("effdet-convert", "efficientdet-d0", "d0.pth", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("source       efficientdet-d0.tar.gz (TF1 checkpoint)\n")
    assert mirror.handler.requests == [path, path]  # the first one broke
    metadata = read_model_file(tmp_path / "d0.pth")[1]
    assert metadata["source"]["official"] == "efficientdet-d0"
    assert metadata["source"]["url"] == f"{mirror.url}{path}"

    mirror.stop()  # from now on there is no network
    for name in ("d0", "EfficientDet-D0", f"{mirror.url}{path}"):
        done = run_here("effdet-convert", name, "again.safetensors", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    done = run_here("effdet-convert", "d1", "d1.pth", cwd=tmp_path)
    assert done.returncode == 1
    assert "no connection" in done.stderr
    assert not (tmp_path / "d1.pth").exists()
    (cached,) = (tmp_path / "cache").rglob("*.tar.gz")
    os.truncate(cached, 1_000_000)
    done = run_here("effdet-inspect", "d0", cwd=tmp_path)
    assert done.returncode == 1
    assert f"Error: {cached}: " in done.stderr
    assert "download it again. Delete the cached file first." in done.stderr


def test_what_shapes_cannot_tell_comes_from_the_table(mirror: Mirror, tmp_path: Path) -> None:
    configs = {}
    for name in ("d0", "d0-advprop", "d6-640"):
        done = run_here("effdet-convert", name, f"{name}.pth", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        configs[name] = read_model_file(tmp_path / f"{name}.pth")[1]
    assert [metadata["config"]["normalization"] for metadata in configs.values()] == ["mean_std", "advprop", "mean_std"]
    assert [metadata["config"]["image_size"] for metadata in configs.values()] == [[512, 512], [512, 512], [640, 640]]
    assert configs["d0-advprop"]["config_origins"]["normalization"] == "table of official files"
    assert configs["d6-640"]["variant"] == "d6"
    done = run_here("effdet-convert", "d0-advprop", "own.pth", "--hparams", "scale_range=false", cwd=tmp_path)
    assert read_model_file(tmp_path / "own.pth")[1]["config"]["normalization"] == "mean_std"


def test_a_classifier_is_converted_as_a_backbone(mirror: Mirror, with_classifier: Path, tmp_path: Path) -> None:
    done = run_here("effdet-convert", "tf_efficientnet_b0_ns", "b0.pth", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert mirror.handler.requests == [f"/{CLASSIFIER}"]
    assert "model        efficientnet-b0, a backbone without a detector" in done.stdout
    assert "ignored (classifier on top of the backbone, which a detector does not have)" in done.stdout
    metadata = read_model_file(tmp_path / "b0.pth")[1]
    assert metadata["source"]["official"] == "efficientnet-b0-noisystudent"
    assert (metadata["config"], metadata["view"]["name"]) == ({"backbone": "efficientnet-b0"}, "ema")


def test_a_model_is_named_where_its_file_is_expected(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.png")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    words = ["photo.png", "--score", "0", "--json", "found.json"]
    done = run_here("effdet-detect", "tf_efficientdet_d0", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert mirror.handler.requests == [f"/{PATHS[0]}"]
    found = (tmp_path / "found.json").read_text()
    assert list((tmp_path / "temporary").iterdir()) == []
    run_here("effdet-convert", "d0", "d0.pth", cwd=tmp_path)
    (tmp_path / "found.json").unlink()
    run_here("effdet-detect", "d0.pth", *words, cwd=tmp_path)
    assert (tmp_path / "found.json").read_text() == found
    (tmp_path / "d0").mkdir()  # what is there counts, whatever it is called
    done = run_here("effdet-detect", "d0", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr[:24]) == (1, "Error: d0 is a folder, n")
    done = run_here("effdet-detect", "d1", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert "d1" in done.stderr


@pytest.mark.slow
def test_other_commands_take_names_too(mirror: Mirror, tmp_path: Path) -> None:
    done = run_here("effdet-inspect", "d0-advprop", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "efficientdet-d0.tar.gz" in done.stdout
    assert run_here("effdet-convert", "d0", "d0.pth", cwd=tmp_path).returncode == 0
    options = ["--reference", "d0", "--dtype", "float64", "--mode", "isolated", "--image-size", "64"]
    done = run_here("effdet-verify", "d0.pth", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "PASS" in done.stdout


def test_what_is_on_disk_comes_first(mirror: Mirror, tmp_path: Path) -> None:
    write_seeded_checkpoint(small_config(num_classes=5), tmp_path / "d0")
    done = run_here("effdet-convert", "d0", "d0.pth", cwd=tmp_path)
    assert "5 classes" in done.stdout
    assert mirror.handler.requests == []


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        (
            "d0-640",
            2,
            "'d0-640' is not an official file; available for d0: d0, d0.h5, d0-advprop, d0-coco1; available with ",
        ),
        ("d0-noisystudent", 2, "available for its backbone: efficientnet-b0-noisystudent"),
        ("efficientdet-d9", 2, "the official variants are d0, d1"),
        ("d1", 1, "404"),
        ("ftp://127.0.0.1/d0.tar.gz", 2, "http"),
        ("nothing/of/this/name", 1, "no such file, folder or checkpoint prefix"),
    ],
)
def test_wrong_names(mirror: Mirror, tmp_path: Path, name: str, code: int, words: str) -> None:
    done = run_here("effdet-convert", name, "out.pth", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert done.stderr.startswith("Error: ")
    assert not (tmp_path / "out.pth").exists()


def test_the_list(tmp_path: Path) -> None:
    done = run_here("effdet-convert", "--list", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["name", "image", "(px)", "AP", "val2017", "input"]
    assert len(lines) > 30
    by_name = {line.split()[0]: line for line in lines}
    assert by_name["d4-640"].split()[1:4] == ["640", "x", "640"]
    assert by_name["d0-advprop"].endswith("  x * 2 / 255 - 1")
    assert by_name["d7x"].split()[4] == "54.4"
    assert by_name["d7-coco1"].split()[1:5] == ["1536", "x", "1536", "as"]  # without an AP
    assert by_name["efficientnet-b0-noisystudent"].split()[1:] == ["backbone"]
