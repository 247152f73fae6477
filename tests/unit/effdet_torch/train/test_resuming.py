"""What a resumed training takes over, what may be different, and what is refused; how signals end a training."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effdet_torch import save_model
from effdet_torch.errors import UsageError
from effdet_torch.processes import Processes
from effdet_torch.terminal.interruption import terminated_as_interrupted
from effdet_torch.train import setup as setting_up
from effdet_torch.train import trainer
from effdet_torch.train.recipe import Recipe, make_recipe
from effdet_torch.train.request import TrainRequest
from effdet_torch.train.run import folder
from effdet_torch.train.run.results import Results
from effdet_torch.train.run.settings import read_settings, resumed
from effdet_torch.train.setup import set_up
from effdet_torch.train.state import load_state
from support.coco_samples import small_model, write_coco
from support.shared_interruption import interrupted
from support.torchrun import run_processes

RECIPE = make_recipe("default", epochs=2, batch=2, augment=("flip",))
SPLITS = {"train2017": (17, 13, 22, 15), "val2017": (7, 3)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with two splits and a model."""
    root = tmp_path_factory.mktemp("train")
    for split, ids in SPLITS.items():
        write_coco(root / "data", ids, split=split)
    save_model(small_model(), root / "start.pth")
    return root


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a third of a short training."""
    monkeypatch.setitem(folder.AFTER_EPOCH, "curves.png", lambda _: b"")


def request(place: Path, out: Path, recipe: Recipe = RECIPE, **changes: Any) -> TrainRequest:
    return TrainRequest(
        place / "data", out, recipe, source=str(place / "start.pth"), workers=0, device="cpu", **changes
    )


def run(asked: TrainRequest) -> Results:
    results = trainer.train(asked)
    assert results is not None
    return results


def test_a_batch_that_was_found_is_the_one_of_the_resumed_run(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setting_up, "batch_for", lambda *_: 1)
    run(request(place, tmp_path, replace(RECIPE, batch=4, epochs=1), batch_auto=True))
    assert read_settings(tmp_path)["recipe"]["batch"] == 1
    assert [row.step for row in run(resumed(tmp_path, {"epochs": 2})).epochs] == [4, 8]


def test_fewer_epochs_than_are_done_train_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = trainer.Trainer._end_of_epoch

    def dies(self: trainer.Trainer) -> None:
        real(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_end_of_epoch", dies)
        with pytest.raises(KeyboardInterrupt):
            run(request(place, tmp_path, replace(RECIPE, epochs=5)))
    assert len(run(resumed(tmp_path, {"epochs": 1})).epochs) == 1
    assert "nothing left to train after epoch 1" in capsys.readouterr().out
    assert len(run(resumed(tmp_path, {"epochs": 2})).epochs) == 2  # negative control


def test_a_run_that_patience_ended_stays_ended_unless_patience_is_raised(place: Path, tmp_path: Path) -> None:
    run(request(place, tmp_path, replace(RECIPE, epochs=9, patience=1, lr=1e-12, ema=None)))
    assert len(run(resumed(tmp_path, {"epochs": 12})).epochs) == 2
    assert len(run(resumed(tmp_path, {"patience": 2})).epochs) == 3


def test_another_number_of_processes_is_another_training(place: Path, tmp_path: Path) -> None:
    run(request(place, tmp_path, replace(RECIPE, epochs=1)))
    again = resumed(tmp_path, {"epochs": 2})
    with pytest.raises(UsageError, match=r"was trained in 1 processes, this is one of 2: batches and learning rates"):
        set_up(again, Processes(0, 2), None, load_state(tmp_path))
    assert len(run(again).epochs) == 2  # negative control


def test_data_with_other_classes_are_refused_in_words(place: Path, tmp_path: Path) -> None:
    run(request(place, tmp_path / "run", replace(RECIPE, epochs=1)))
    for split, ids in SPLITS.items():
        path = write_coco(tmp_path / "data", ids, split=split) / "annotations" / f"instances_{split}.json"
        path.write_text(path.read_text().replace('"category_id": 2', '"category_id": 1'))
    with pytest.raises(UsageError, match="the data are not those of the run"):
        run(resumed(tmp_path / "run", {"data": tmp_path / "data", "epochs": 2}))


def test_a_signal_to_one_process_ends_all_after_the_same_update(place: Path, tmp_path: Path) -> None:
    found = run_processes(2, interrupted, place / "data", place / "start.pth", tmp_path / "run")
    assert all(text.startswith("interrupted after update 1, in epoch 1 of 2") for text, _ in found)
    state = load_state(tmp_path / "run")
    assert state.updates == 1
    first, second = (np.array(means) for _, means in found)
    assert not np.allclose(first, second)
    assert np.allclose(state.model["backbone.bn1.running_mean"], (first + second) / 2, rtol=1e-5)


def test_sigterm_ends_a_training_like_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
