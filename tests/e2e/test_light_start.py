"""What the commands load, how their threads wait and how they end: every run in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from support.coco_samples import write_coco, write_model
from support.commands import run

# Slow to load, and needed by none of the runs below, but for what `NEEDED` loads.
HEAVY = {"cv2", "matplotlib", "sympy", "tensorflow", "timm", "torch._dynamo", "torchvision"}
RUNS = {
    "detect": ("model.pth", "coco/val2017/000000000007.jpg", "--out", "drawn", "--json", "found.json"),
    "verify": ("model.pth", "--coco", "coco", "--limit", "1", "--results", "results.json"),
    "train": ("coco", "--from", "model.pth", "--epochs", "1", "--batch", "2", "--workers", "0", "--out", "run"),
}
# What a run cannot do without: a training draws curves, and an optimizer of PyTorch loads its compiler.
NEEDED = dict.fromkeys(RUNS, "import torch") | {
    "train": "import matplotlib, torch\ntorch.optim.SGD([torch.zeros(1, requires_grad=True)])"
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("light")
    write_coco(root / "coco")
    write_model(root / "model.pth")
    return root


def loaded_by(code: str, *arguments: str, cwd: Path, modules: set[str] = HEAVY) -> set[str]:
    """Return which of the modules an interpreter has loaded after the code."""
    code = f"import sys\n{code}\nprint(*{modules!r} & set(sys.modules), file=sys.stderr)"
    words = [sys.executable, "-c", code, *arguments]
    return set(subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=True).stderr.split())


def loaded_by_run(command: str, *more: str, cwd: Path) -> set[str]:
    code = f"import cli\ntry:\n    cli.{command}()\nexcept SystemExit as done:\n    assert not done.code"
    return loaded_by(code, *RUNS[command], *more, cwd=cwd)


@cache
def unavoidable(code: str) -> set[str]:
    return loaded_by(code, cwd=Path.cwd())


@pytest.mark.parametrize("command", RUNS)
def test_a_run_loads_only_what_it_needs(folder: Path, command: str) -> None:
    found = loaded_by_run(command, cwd=folder)
    assert found <= unavoidable(NEEDED[command])


def test_what_is_loaded_is_seen(folder: Path) -> None:
    """Negative control."""
    assert "torchvision" in loaded_by("import torchvision", cwd=folder)


# The CPU path of a `Predictor` around an engine of another library, here NumPy.
WITHOUT_TORCH = """
import numpy as np
from effdet_torch import Predictor, get_config
from effdet_torch.inference import labels
from effdet_torch.inference.results import visualize

class Engine:
    config = get_config("d0", image_size=64, num_classes=3)
    metadata, device = {}, "cpu"

    def __call__(self, pixels):
        assert (pixels.shape, pixels.dtype) == ((1, 3, 64, 64), np.float32)
        random = np.random.default_rng(0)
        sizes = list(self.config.feature_sizes().values())
        return [[random.standard_normal((1, 9 * n, *s), np.float32) for s in sizes] for n in (3, 4)]

image = np.full((40, 50, 3), 200, np.uint8)
(found,) = Predictor(Engine())(image)
assert len(found) == 100
visualize.draw_detections(image, found)
"""


def test_an_engine_without_torch_needs_none(folder: Path) -> None:
    assert loaded_by(WITHOUT_TORCH, modules={"torch", *HEAVY}, cwd=folder) == set()
    assert "torch" in loaded_by(f"{WITHOUT_TORCH}\nimport torch", modules={"torch"}, cwd=folder)  # negative control


def spins(error_output: str) -> int:
    """Return how often a thread looks for work before it sleeps, as the OpenMP of PyTorch says when it is loaded."""
    found = re.search(r"GOMP_SPINCOUNT = '(\d+)'", error_output)
    if found is None:
        pytest.skip("PyTorch uses another OpenMP than GNU's")
    return int(found[1])


@pytest.fixture
def report_of_openmp(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let OpenMP print its settings; those of the tests are taken away."""
    monkeypatch.setenv("OMP_DISPLAY_ENV", "VERBOSE")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    return monkeypatch


def test_the_threads_of_a_command_wait_without_spinning(folder: Path, report_of_openmp: pytest.MonkeyPatch) -> None:
    assert spins(run("effdet-detect", *RUNS["detect"], cwd=folder).stderr) == 0
    report_of_openmp.setenv("OMP_WAIT_POLICY", "ACTIVE")  # what the user sets counts
    assert spins(run("effdet-detect", *RUNS["detect"], cwd=folder).stderr) > 0


@pytest.mark.usefixtures("report_of_openmp")
def test_the_package_changes_no_setting_of_its_users(folder: Path) -> None:
    code = (
        "import os\nbefore = dict(os.environ)\nimport effdet_torch\neffdet_torch.Predictor\nassert os.environ == before"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=folder, env=os.environ, capture_output=True, text=True, check=True)
    assert spins(done.stderr) > 0


def test_the_end_of_a_command_looks_for_no_cycles(tmp_path: Path) -> None:
    """What is registered first runs last, so it sees what the commands leave."""
    code = "import atexit, gc\natexit.register(lambda: print(gc.get_freeze_count()))\nimport {}"
    frozen = [
        int(subprocess.run([sys.executable, "-c", code.format(name)], cwd=tmp_path, capture_output=True).stdout)
        for name in ("cli", "converter.command, effdet_torch.commands.detect, verify.command")
    ]
    assert frozen[0] > frozen[1] + 1000
