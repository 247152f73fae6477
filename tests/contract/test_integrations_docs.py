"""docs/hubs.md and docs/integrations.md: their Python runs where it needs no guest; tests/integrations run the rest."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from effdet_torch import save_model
from support import detectron2_stand_in
from support.coco_samples import small_model
from support.guests import PAGE, run_sections
from support.hugging_face import Hub, environment, local_hub

ROOT = Path(__file__).resolve().parents[2]
HUBS = PAGE.with_name("hubs.md")
COCO = {"num_classes": 3, "label_map": {1: "person", 2: "bicycle", 3: "car"}}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    save_model(small_model(**COCO), tmp_path / "d0.pth")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_of_models(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = run_sections("Names of models", page=HUBS)
    assert names["model"].config.num_classes == 3
    assert names["finer"].config.image_size == (640, 640)
    assert names["mine"].config.num_classes == 20
    assert "20 classes in place of 3" in caplog.text


def test_torchvision_and_detectron2(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detectron2_stand_in.install(monkeypatch)
    names = run_sections("torchvision's contract", page=PAGE)
    (found,) = names["detector"]([torch.rand(3, 40, 50)])
    assert set(found) == {"boxes", "labels", "scores"}
    names = run_sections("torchvision's contract", "Detectron2", page=PAGE)
    (found,) = names["detector"]([{"image": torch.zeros(3, 40, 50), "height": 480, "width": 640}])
    assert found["instances"].image_size == (480, 640)


@pytest.mark.slow
def test_pushing_a_model(place: Path) -> None:
    """With a report of the command; in a process of its own, because the address of the hub is read at the start."""
    from support.coco_samples import write_coco
    from support.commands import run

    write_coco(place)
    save_model(small_model(), place / "d0.pth")  # its classes are those of these images
    done = run("effdet-verify", "d0.pth", "--coco", ".", "--report-dir", "report", cwd=place)
    assert done.returncode == 0, done.stderr
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); from pathlib import Path\n"
    code += f"from support.guests import run_sections; run_sections('Hugging Face Hub', page=Path({str(HUBS)!r}))"
    with local_hub() as endpoint:
        words = [sys.executable, "-c", code]
        pushed = subprocess.run(words, env=environment(place, endpoint), capture_output=True, text=True, check=False)
        assert pushed.returncode == 0, pushed.stderr
        card = Hub.files["README.md"].decode()
    assert "license: apache-2.0" in card
    assert "on all 4 images of instances_val2017.json" in card


@pytest.mark.slow
def test_torch_hub(place: Path) -> None:
    from support.guests import python_of

    code = python_of("torch.hub", HUBS).replace("path/of/the/checkout", str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", code + "\nprint(model.config.num_classes)"], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "3", done.stderr


def test_the_versions_are_those_of_the_tests() -> None:
    """The page names what `make integrations` installs."""
    makefile, page = (ROOT / "Makefile").read_text(), PAGE.read_text("utf-8")
    pinned = dict(
        re.findall(r"(fiftyone|libreyolo|sahi|supervision|torchmetrics|mmcv-lite|mmdet|mmengine)==([\d.]+)", makefile)
    )
    assert len(pinned) == 8
    table = page.partition("The Python below")[0]
    for name, number in pinned.items():
        assert number in table, f"{name} {number}"
    assert f"effdet {version('effdet')}" in table
