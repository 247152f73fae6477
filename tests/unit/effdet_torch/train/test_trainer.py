"""A whole training of a tiny model: what it writes, and that nothing can change what it computes."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from converter.inspection import inspect_source
from converter.locate import open_checkpoint
from converter.report import inspection_text
from effdet_torch import load_model, save_model
from effdet_torch.errors import ConfigError, EffdetError, ModelFileError, OutputError, TrainingError, UsageError
from effdet_torch.train import state as state_module
from effdet_torch.train import trainer
from effdet_torch.train.input.loader import TrainLoader
from effdet_torch.train.recipe import Recipe, make_recipe
from effdet_torch.train.request import TrainRequest
from effdet_torch.train.run import folder
from effdet_torch.train.run.place import STATE_FILE
from effdet_torch.train.run.results import Results
from effdet_torch.train.run.settings import resumed
from effdet_torch.train.state import load_state
from effdet_torch.train.step import TrainStep
from support.coco_samples import small_model, write_coco

FILES = {"best.pth", "last.pth", "state.pt", "settings.yaml", "results.csv", "results.json", "report.html"}
PICTURES = {"curves.png", "samples_train.png", "samples_val.png"}
RECIPE = make_recipe("default", epochs=3, batch=2, augment=("flip", "scale"), seed=3, drop_path=0.2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with two splits and a model."""
    root = tmp_path_factory.mktemp("train")
    write_coco(root / "data")
    write_coco(root / "data", (17, 13, 22, 15), split="train2017")
    save_model(small_model(), root / "start.pth")
    return root


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a third of a short training; `undisturbed` has real curves."""
    monkeypatch.setitem(folder.AFTER_EPOCH, "curves.png", lambda _: b"")


def request(place: Path, out: Path, recipe: Recipe = RECIPE, **changes: Any) -> TrainRequest:
    values = {"source": str(place / "start.pth"), "workers": 0, "device": "cpu", **changes}
    return TrainRequest(place / "data", out, recipe, **values)


def run(place: Path, out: Path, recipe: Recipe = RECIPE, **changes: Any) -> Results:
    results = trainer.train(request(place, out, recipe, **changes))
    assert results is not None
    return results


def resume(out: Path, **given: Any) -> Results:
    results = trainer.train(resumed(out, given))
    assert results is not None
    return results


def everything(out: Path) -> dict[str, Tensor]:
    """Return all numbers that a training ends with."""
    state = load_state(out)
    step = state.step
    momenta = {f"momentum {n}": row["momentum_buffer"] for n, row in step["optimizer"]["state"].items()}
    averages = {f"ema {key}": value for key, value in step["averages"].items()}
    files = {f"{name} {key}": x for name in ("last", "best") for key, x in _weights(out / f"{name}.pth").items()}
    return {**state.model, **momenta, **averages, **files}


def _weights(path: Path) -> dict[str, Tensor]:
    return load_model(path, allow_nonfinite=True).state_dict()


def different(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [key for key in one if not torch.equal(one[key], other[key])]


@pytest.fixture(scope="module")
def undisturbed(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(place, out)
    return out


def test_a_run_folder(undisturbed: Path, place: Path) -> None:
    assert {path.name for path in undisturbed.iterdir()} == FILES | PICTURES
    rows = list(csv.DictReader((undisturbed / "results.csv").read_text().splitlines()))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "2"), ("2", "4"), ("3", "6")]
    assert all(float(row["loss"]) > 0 and row["AP_ema"] and row["AP_raw"] for row in rows)
    results = json.loads((undisturbed / "results.json").read_text())
    assert list(results["epochs"][-1]["per_class"]["ema"]) == ["a", "b"]
    assert "epochs done: 3; the best is" in (undisturbed / "report.html").read_text()


def test_a_model_states_how_it_was_trained(undisturbed: Path) -> None:
    model = load_model(undisturbed / "last.pth")
    training = model.metadata["training"]
    assert (training["epoch"], training["update"], training["weights"]) == (3, 6, "ema")
    assert (training["recipe"], training["settings"]["seed"]) == ("default", 3)
    assert training["splits"]["train"]["images"] == 4
    assert len(training["splits"]["train"]["sha256"]) == 64
    assert (model.config.num_classes, dict(model.config.label_map)) == (2, {1: "a", 2: "b"})
    best = load_model(undisturbed / "best.pth").metadata["training"]
    results = json.loads((undisturbed / "results.json").read_text())["epochs"]
    assert best["AP"] == max(values["AP"] for row in results for values in row["metrics"].values())


@pytest.mark.slow
def test_two_runs_are_equal_and_the_seed_counts(place: Path, undisturbed: Path, tmp_path: Path) -> None:
    run(place, tmp_path / "again", workers=1)
    assert not different(everything(tmp_path / "again"), everything(undisturbed))
    run(place, tmp_path / "other", replace(RECIPE, seed=4))
    assert different(everything(tmp_path / "other"), everything(undisturbed))


class Killed(BaseException):
    """What no code catches."""


# In the first epoch, at its end, in the second one.
@pytest.mark.parametrize(
    "updates", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 3]
)
def test_a_killed_run_continues_bit_for_bit(
    place: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, updates: int
) -> None:
    real = TrainStep.__call__

    def dies(self: TrainStep, batches: Any) -> Any:
        if self.step == updates:
            raise Killed
        return real(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", dies)
        patch.setattr(trainer, "SAVE_SECONDS", 0)  # a state after every update
        with pytest.raises(Killed):
            run(place, tmp_path / "run")
    assert load_state(tmp_path / "run").step["step"] == updates
    torch.manual_seed(99)  # what another process would have drawn
    results = resume(tmp_path / "run")
    assert not different(everything(tmp_path / "run"), everything(undisturbed))
    expected = json.loads((undisturbed / "results.json").read_text())["epochs"]
    for row, other in zip(results.epochs, expected, strict=True):
        assert (row.losses, row.metrics, row.gradient_norm) == (
            other["losses"],
            other["metrics"],
            other["gradient_norm"],
        )


@pytest.mark.slow
def test_a_run_that_is_killed_after_an_epoch_without_validation_continues_bit_for_bit(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, real = replace(RECIPE, val_every=2), folder.RunFolder.record

    def dies(self: folder.RunFolder, result: Any) -> None:
        real(self, result)
        if result.epoch == 1:
            assert not result.metrics
            raise Killed

    run(place, tmp_path / "whole", recipe)
    with monkeypatch.context() as patch:
        patch.setattr(folder.RunFolder, "record", dies)
        patch.setattr(trainer, "SAVE_SECONDS", 0)
        with pytest.raises(Killed):
            run(place, tmp_path / "run", recipe)
    assert load_state(tmp_path / "run").updates == 2  # the epoch is not over
    resume(tmp_path / "run")
    assert not different(everything(tmp_path / "run"), everything(tmp_path / "whole"))


def test_ctrl_c_finishes_the_update_and_saves_it(
    place: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A shell starts what runs in its background without this signal.
    handler = signal.default_int_handler
    before, real = signal.signal(signal.SIGINT, handler), TrainStep.__call__

    def interrupted(self: TrainStep, batches: Any) -> Any:
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", interrupted)
        with pytest.raises(
            TrainingError, match=r"interrupted after update 3, in epoch 2 of 3; run effdet-train --resume"
        ):
            run(place, tmp_path / "run")
    assert load_state(tmp_path / "run").updates == 1
    assert signal.signal(signal.SIGINT, before) is handler
    resume(tmp_path / "run")
    assert not different(everything(tmp_path / "run"), everything(undisturbed))


def test_more_epochs_continue_a_finished_run(place: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=1)
    run(place, tmp_path / "run", recipe)
    assert len(resume(tmp_path / "run").epochs) == 1  # there is nothing left to do
    results = resume(tmp_path / "run", epochs=2)
    assert [row.epoch for row in results.epochs] == [1, 2]


def test_a_run_is_not_resumed_as_another(place: Path, undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be resumed with other settings: seed 4"):
        resume(undisturbed, seed=4)
    write_coco(tmp_path / "data", (17, 13), split="train2017")
    with pytest.raises(UsageError, match="the data are not those of the run"):
        resume(undisturbed, data=tmp_path / "data", epochs=4)
    (tmp_path / STATE_FILE).write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ModelFileError, match=r"state\.pt is damaged"):
        load_state(tmp_path)
    (tmp_path / STATE_FILE).unlink()
    with pytest.raises(ModelFileError, match=r"state\.pt does not exist: nothing to resume"):
        load_state(tmp_path)
    torch.save({"version": 0}, tmp_path / STATE_FILE)
    with pytest.raises(ModelFileError, match="not written by this version"):
        load_state(tmp_path)


def test_a_full_disk_leaves_the_last_state(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, real, calls = tmp_path / "run", state_module.torch.save, []

    def full(content: Any, stream: Any) -> None:
        if "version" in content:
            calls.append(1)
            if len(calls) == 4:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(content, stream)

    with monkeypatch.context() as patch:
        patch.setattr(state_module.torch, "save", full)
        with pytest.raises(OutputError, match=r"state\.pt cannot be written: No space left on device; nothing was"):
            run(place, out)
    assert load_state(out).epoch == 1
    resume(out)


@pytest.mark.parametrize("step", [0, 2])
def test_a_loss_that_is_not_finite_ends_the_run(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    real = TrainStep.__call__

    def broken(self: TrainStep, batches: Any) -> Any:
        if self.step == step:
            batches = [batch._replace(images=batch.images * float("nan")) for batch in batches]
        return real(self, batches)

    monkeypatch.setattr(TrainStep, "__call__", broken)
    with pytest.raises(TrainingError, match=rf"step {step}: the .* is nan; expected a finite number") as error:
        run(place, tmp_path / "run")
    assert str(error.value).endswith("run/best.pth (--from), in another folder" if step else "--amp; start again")
    if not step:
        return
    state = load_state(tmp_path / "run")
    assert state.step["step"] == 2
    assert all(bool(value.isfinite().all()) for value in state.model.values())


def test_patience_ends_a_run(place: Path, tmp_path: Path) -> None:
    results = run(place, tmp_path / "run", replace(RECIPE, epochs=9, patience=2, lr=1e-12, ema=None))
    assert [row.epoch for row in results.epochs] == [1, 2, 3]


def test_validations_as_often_as_wanted(place: Path, tmp_path: Path) -> None:
    results = run(place, tmp_path / "run", replace(RECIPE, val_every=2, ema=None))
    assert [bool(row.metrics) for row in results.epochs] == [False, True, True]
    assert {copy for row in results.epochs for copy in row.metrics} == {"raw"}


def test_a_state_is_written_before_a_validation_and_after_an_epoch(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, real = list[tuple[int, int]](), trainer.save_state
    monkeypatch.setattr(trainer, "save_state", lambda *x: written.append((x[0].epoch, x[0].updates)) or real(*x))
    run(place, tmp_path / "run", replace(RECIPE, val_every=2))
    assert written == [(1, 0), (1, 2), (2, 0), (2, 2), (3, 0)]  # (epochs that are done, updates since then)


def test_fewer_images_than_a_batch(place: Path, tmp_path: Path) -> None:
    results = run(place, tmp_path / "run", replace(RECIPE, batch=64, epochs=1))
    assert "batch 4 instead of 64: number of training images: 4" in results.notes
    assert results.epochs[0].images == 4


def test_taps_and_resize_of_a_model_are_kept(place: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.pth"
    model = small_model(backbone="efficientnet-b1", taps=((2, 1), (4, 2), (6, 0)), resize="legacy")
    save_model(model, start)
    trainer.train(request(place, tmp_path / "run", replace(RECIPE, epochs=1), source=str(start)))
    trained = load_model(tmp_path / "run" / "best.pth")
    assert (trained.config.taps, trained.config.resize) == (model.config.taps, "legacy")
    assert trained.state_dict().keys() == model.state_dict().keys()


def test_another_head_is_made_for_other_classes(place: Path, tmp_path: Path) -> None:
    save_model(small_model(num_classes=7), tmp_path / "seven.pth")
    content = torch.load(tmp_path / "seven.pth", weights_only=True)
    content["metadata"]["untrained"] = ["class and box predictions"]
    torch.save(content, tmp_path / "seven.pth")
    recipe = replace(RECIPE, epochs=1, lr=1e-12, ema=None)
    results = run(place, tmp_path / "run", recipe, source=str(tmp_path / "seven.pth"))
    assert any(note.startswith("class head: 2 classes in place of 7") for note in results.notes)
    assert any(note.startswith("UNTRAINED class and box predictions") for note in results.notes)
    trained = load_model(tmp_path / "run" / "last.pth")
    assert ("untrained" in trained.metadata, "untrained" in trained.metadata["parent"]) == (False, True)
    old, new = load_model(tmp_path / "seven.pth").state_dict(), trained.state_dict()
    changed = {key for key in old if old[key].shape != new[key].shape}
    assert changed == {"class_net.predict.conv_pw.weight", "class_net.predict.conv_pw.bias"}
    kernels = {key for key in old if key.endswith("weight") and old[key].ndim == 4} - changed
    assert all(torch.allclose(old[key], new[key], atol=1e-6) for key in kernels)


def test_scratch_and_what_cannot_be_opened(place: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=1)
    results = run(place, tmp_path / "run", recipe, source="scratch", variant="d0", image_size=(64, 64))
    assert "starts from random values (d0)" in results.notes
    with pytest.raises(ModelFileError, match="nothing is not a converted file"):
        run(place, tmp_path / "run", recipe, source="nothing")
    with pytest.raises(EffdetError, match=r"start\.pth is .*, not d3"):
        run(place, tmp_path / "run", recipe, source=str(place / "start.pth"), variant="d3")


@pytest.mark.parametrize("name", ["start.pth", "scratch"])
def test_settings_of_a_source_that_has_its_own_are_refused(place: Path, tmp_path: Path, name: str) -> None:
    source = name if name == "scratch" else str(place / name)
    with pytest.raises(ConfigError, match=rf"--hparams describes a checkpoint .*{name} needs no settings; leave it"):
        run(place, tmp_path / "run", source=source, hparams="num_classes=3")


def test_a_look_at_the_data(place: Path, tmp_path: Path) -> None:
    data, estimate = trainer.check(request(place, tmp_path / "run"))
    assert (data.train.images, data.val.images, estimate.updates, estimate.validations) == (4, 4, 6, 3)
    assert estimate.seconds > 0
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["samples_data.png"]
    assert [note.kind for note in data.notes] == [
        *("image in both splits", "segmentation missing", "image enlarged"),
    ]
    assert len({*data.remarks, *(note.sentence for note in data.notes)}) == len(data.notes) + len(data.remarks)
    assert any(note.startswith("starts from") for note in data.remarks)


def test_a_look_at_the_data_reads_no_more_batches_than_it_measures(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[tuple[int, int]]()
    batches = TrainLoader.batches
    monkeypatch.setattr(TrainLoader, "batches", lambda *x: read.append(x[1:]) or batches(*x))
    trainer.check(request(place, tmp_path / "run", replace(RECIPE, epochs=50, grad_accum=2, batch=1)))
    assert read == [(0, 6)]


def test_a_look_at_the_data_does_not_try_what_cannot_fit(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effdet_torch.train.monitor.estimate.free_bytes", lambda _: 10**6)
    monkeypatch.setattr(TrainStep, "__call__", lambda *_: pytest.fail("an update was done"))
    data, estimate = trainer.check(request(place, tmp_path / "run"))
    assert (data.train.images, estimate.batch, estimate.most) == (4, 2, 0)
    assert "GB, and 0.0 GB are free; not one image fits; pass a smaller --image-size" in str(estimate)


def test_what_others_show_of_a_training(undisturbed: Path) -> None:
    with open_checkpoint(undisturbed / "last.pth") as source:
        facts = inspect_source(source)
    (line,) = (line for line in inspection_text(facts).splitlines() if line.startswith("training"))
    assert "default recipe, epoch 3, ema weights, AP 0.0; started from start.pth" in line
    assert "/" not in line  # whose computer it was is nobody's business
