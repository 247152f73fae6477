"""A run folder: every file after every epoch, complete or unchanged."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from effdet_torch.errors import ConfigError, EffdetError, OutputError, OverwriteError, UsageError
from effdet_torch.train.run import events
from effdet_torch.train.run.folder import RunFolder
from effdet_torch.train.run.place import LABELLED, STATE_FILE, choose_folder
from effdet_torch.train.run.settings import settings_of
from support.train_results import epoch_result, request

FILES = {"settings.yaml", "results.csv", "results.json", "curves.png", "report.html"}


def opened(path: Path, resume: bool = False) -> RunFolder:
    return RunFolder(path, settings_of(request(path)), resume=resume, tensorboard=False)


def epochs(path: Path) -> list[str]:
    with io.StringIO((path / "results.csv").read_text()) as stream:
        return [row["epoch"] for row in csv.DictReader(stream)]


def test_all_files_after_an_epoch(tmp_path: Path) -> None:
    folder = opened(tmp_path / "runs" / "a")
    assert {file.name for file in folder.path.iterdir()} == {"settings.yaml"}
    folder.note("a note")
    folder.record(epoch_result(1))
    assert {file.name for file in folder.path.iterdir()} == FILES
    assert "a note" in (folder.path / "report.html").read_text()


def test_a_resumed_run_doubles_no_row(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    folder.note("kept")
    for epoch in (1, 2, 3):
        folder.record(epoch_result(epoch))
    resumed = opened(tmp_path, resume=True)  # from the state after epoch 2
    resumed.record(epoch_result(3))
    resumed.record(epoch_result(4))
    assert epochs(tmp_path) == ["1", "2", "3", "4"]
    assert resumed.results.notes == ("kept",)
    opened(tmp_path).record(epoch_result(1))  # negative control: not resumed
    assert epochs(tmp_path) == ["1"]


def test_a_run_that_was_interrupted_in_its_first_epoch(tmp_path: Path) -> None:
    opened(tmp_path)
    resumed = opened(tmp_path, resume=True)
    resumed.record(epoch_result(1))
    assert epochs(tmp_path) == ["1"]


def test_a_picture_that_is_there_is_on_the_page(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    folder.record(epoch_result(1))
    assert "Training images" not in (tmp_path / "report.html").read_text()
    folder.write("samples_train.png", b"PNG")
    folder.record(epoch_result(2))
    assert "Training images" in (tmp_path / "report.html").read_text()


def test_results_that_are_damaged_or_of_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run folder"):
        opened(tmp_path, resume=True)
    opened(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(EffdetError, match=r"results\.json cannot be read"):
        opened(tmp_path, resume=True)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/run cannot be created: .*; choose another --out"):
        opened(tmp_path / "file" / "run")


def test_events_where_tensorboard_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write = events.open_events(tmp_path, True)
    write(epoch_result(1))
    write(epoch_result(2, None))
    found = EventAccumulator(str(tmp_path / events.FOLDER)).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(10, 2.0), (20, 1.0)]
    assert [(event.step, event.value) for event in found.Scalars("AP_ema")] == [(10, 0.25)]


def test_events_where_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    events.open_events(tmp_path, None)(epoch_result(1))
    with pytest.raises(ConfigError, match=r"--tensorboard needs TensorBoard: run pip install '\.\[tensorboard\]'"):
        events.open_events(tmp_path, True)
    events.open_events(tmp_path, False)(epoch_result(1))
    assert list(tmp_path.iterdir()) == []


def test_the_default_folder_is_the_first_free_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train", "train2", "train3"):
        found = choose_folder(None)
        assert found == Path("runs") / name
        found.mkdir(parents=True)


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_folder(tmp_path) == tmp_path
    assert choose_folder(tmp_path / "new") == tmp_path / "new"
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OverwriteError, match="is not empty: choose another folder"):
        choose_folder(tmp_path)
    opened(tmp_path)
    with pytest.raises(OverwriteError, match="is not empty: choose another folder"):  # there is nothing to resume
        choose_folder(tmp_path)
    (tmp_path / STATE_FILE).touch()
    with pytest.raises(OverwriteError, match="holds a run: pass --resume to continue it, or choose another folder"):
        choose_folder(tmp_path)
    monkeypatch.setenv("RANK", "1")  # rank 0 may have written already
    assert choose_folder(tmp_path) == tmp_path


def test_a_training_may_follow_its_check_in_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / LABELLED).touch()
    assert choose_folder(tmp_path) == tmp_path
    (tmp_path / "samples_val.png").touch()
    with pytest.raises(OverwriteError, match="is not empty: choose another folder"):
        choose_folder(tmp_path)


def test_several_processes_need_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="--out is missing; with several processes it must be named"):
        choose_folder(None)
