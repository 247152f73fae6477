"""`effdet-train`: from words to a request; the training itself is replaced."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

import cli
import effdet_torch.train
from converter.converted import converted_file
from effdet_torch.data.training.statistics import ClassCount, Statistics
from effdet_torch.errors import EffdetError
from effdet_torch.train.monitor.check_data import CheckedData
from effdet_torch.train.monitor.estimate import Estimate
from effdet_torch.train.recipe import RECIPES
from effdet_torch.train.request import TrainRequest
from effdet_torch.train.run.settings import SETTINGS, settings_of, to_yaml
from support.train_results import request

Run = Callable[..., Result]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What the trainer was asked for, of runs in a folder of their own."""
    found = list[Any]()
    module = ModuleType("effdet_torch.train.trainer")
    module.train = lambda *arguments: found.append(arguments)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(effdet_torch.train, "trainer", module, raising=False)  # where another test has loaded it
    monkeypatch.chdir(tmp_path)
    return found


def run(*words: str) -> Result:
    return CliRunner().invoke(cli.train, words)


def asked(requests: list[Any], *words: str) -> TrainRequest:
    done = run(*words)
    assert (done.exit_code, done.output) == (0, "")
    ((found, _),) = requests
    assert isinstance(found, TrainRequest)
    requests.clear()
    return found


def test_without_options_all_settings_are_the_recipes(requests: list[Any]) -> None:
    expected = TrainRequest(Path("data"), Path("runs/train"), RECIPES["default"])
    assert asked(requests, "data") == expected
    assert asked(requests, "data", "--recipe", "official").recipe == RECIPES["official"]


def test_the_opener_of_the_converter_is_handed_down(requests: list[Any]) -> None:
    run("data", "--from", "d0")
    assert requests[0][1] is converted_file


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--epochs 7", "epochs", 7),
        ("--batch 5", "batch", 5),
        ("--grad-accum 2", "grad_accum", 2),
        ("--lr 0.05", "lr", 0.05),
        ("--optimizer adamw", "optimizer", "adamw"),
        ("--schedule stepwise", "schedule", "stepwise"),
        ("--warmup-epochs 0.5", "warmup_epochs", 0.5),
        ("--warmup-epochs 0", "warmup_epochs", 0),
        ("--freeze backbone|fpn", "freeze", "backbone|fpn"),
        ("--freeze-bn", "freeze_bn", True),
        ("--ema", "ema", 0.9998),
        ("--no-ema", "ema", None),
        ("--amp", "amp", True),
        ("--no-amp", "amp", False),
        ("--sync-bn", "sync_bn", True),
        ("--augment flip,scale", "augment", ("flip", "scale")),
        ("--augment none", "augment", ()),
        ("--fill-color 0", "fill_color", "0"),
        ("--val-every 3", "val_every", 3),
        ("--patience 4", "patience", 4),
        ("--seed 0", "seed", 0),
        ("--seed 9", "seed", 9),
    ],
)
def test_settings_of_the_recipe(requests: list[Any], words: str, name: str, value: Any) -> None:
    found = asked(requests, "data", *words.split()).recipe
    assert getattr(found, name) == value
    kept = {key: old for key, old in vars(RECIPES["default"]).items() if key != name}
    assert {key: new for key, new in vars(found).items() if key != name} == kept


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--from d0.pth", "source", "d0.pth"),
        ("--from scratch", "source", "scratch"),
        ("--from d0 --hparams x=1", "hparams", "x=1"),
        ("--variant d1", "variant", "d1"),
        ("--image-size 640x384", "image_size", (384, 640)),
        ("--image-size 512", "image_size", (512, 512)),
        ("--batch auto", "batch_auto", True),
        ("--val-split 0.1", "val_split", 0.1),
        ("--workers 0", "workers", 0),
        ("--device cpu", "device", "cpu"),
        ("--out a/b", "out", Path("a/b")),
        ("--tensorboard", "tensorboard", True),
        ("--no-tensorboard", "tensorboard", False),
    ],
)
def test_the_rest_of_the_request(requests: list[Any], words: str, name: str, value: Any) -> None:
    found = asked(requests, "data", *words.split())
    assert getattr(found, name) == value
    assert found.recipe == RECIPES["default"]


def test_check_data_prints_and_trains_nothing(requests: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    side = Statistics("train", 3, 1, 4, 0, 2, None, (64, 48), None, (ClassCount(1, "cat", 2, 4, 0),))
    val = replace(side, split="val", images=1, empty=0, boxes=1, most_boxes=1)
    found = CheckedData(side, val, ()), Estimate(0.5, 100, 2.0, 1, 10**9)
    module = sys.modules["effdet_torch.train.trainer"]
    monkeypatch.setattr(module, "check", lambda asked, opener: found, raising=False)
    done = run("data", "--check-data", "--out", "look")
    assert (done.exit_code, requests) == (0, [])
    assert done.output.splitlines() == [
        "train: 3 images (1 without boxes), 4 boxes, at most 2 in an image, median size 64 x 48",
        "val: 1 image (0 without boxes), 1 box, at most 1 in an image, median size 64 x 48",
        "class       images  boxes  val images  val boxes",
        "   1 cat         2      4           2          4",
        "training  about 52 s: 100 updates of 0.50 s, 1 validation of 2 s; memory 1.0 GB",
        f"pictures  {Path('look') / 'samples_data.png'}",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "DATA is missing: name the folder of the data set, or continue a run with --resume"),
        ("data --resume", "--resume needs --out, the folder of the run"),
        ("--resume --out none", "none is not a run folder: it has no settings.yaml; pass the --out of the run"),
        ("data --resume --check-data --out x", "--resume and --check-data exclude each other"),
        ("data --hparams x=1", "--hparams describes SOURCE; name it with --from"),
        ("data --batch 0", "'0' is not a number of images, nor auto"),
        ("data --batch many", "'many' is not a number of images, nor auto"),
        ("data --image-size 1", "the image size (1, 1) cannot be used; expected (height, width), two"),
        ("data --image-size 64x31", "the image size (31, 64) cannot be used"),
        ("data --image-size 12x", "'12x' is not a side or WIDTHxHEIGHT in pixels"),
        ("data --freeze (", "'(' is not a regular expression: missing ), unterminated subpattern at position 0"),
        (
            "data --augment flip,,scale",
            "'flip,,scale' has an empty name; separate names by single commas, or pass none",
        ),
        ("data --lr 0", "0.0 is not in the range x>0"),
        ("data --val-split 1", "1.0 is not in the range 0<x<1"),
        ("data --epochs 0", "0 is not in the range x>=1"),
        ("data --optimizer lion", "'lion' is not one of"),
        ("data --recipe mine", "'mine' is not one of"),
        ("data --out full", "--out full is not empty: choose another folder"),
    ],
)
def test_wrong_usage(requests: list[Any], words: str, message: str) -> None:
    Path("full").mkdir()
    Path("full/file").touch()
    done = run(*words.split())
    assert (done.exit_code, requests) == (2, [])
    assert message in done.output


def test_a_run_goes_on_with_its_own_settings(requests: list[Any], tmp_path: Path) -> None:
    before = request(tmp_path / "a", seed=3, source="d0.pth")
    before.out.mkdir()
    (before.out / SETTINGS).write_bytes(to_yaml(settings_of(before)))
    found = asked(requests, "--resume", "--out", "a", "--epochs", "400", "--seed", "3")
    assert (found.resume, found.recipe.epochs, found.recipe.seed, found.source) == (True, 400, 3, "d0.pth")
    assert (found.recipe_name, found.recipe.normalizer) == ("official", "replica")
    assert asked(requests, "elsewhere", "--resume", "--out", "a").data == Path("elsewhere").absolute()
    for words in ("--seed 4", "--no-ema", "--recipe default", "--from scratch"):
        done = run("--resume", "--out", "a", *words.split())
        assert (done.exit_code, requests) == (2, [])
        assert "a cannot be resumed with other settings: " in done.output


def test_a_failure_is_one_line(requests: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise EffdetError("the loss is NaN")

    monkeypatch.setattr(sys.modules["effdet_torch.train.trainer"], "train", fail)
    done = run("data")
    assert (done.exit_code, done.output) == (1, "Error: the loss is NaN\n")
