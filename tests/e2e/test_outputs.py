"""What commands write, and where: never over what they read, and to stdout alone if that is asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import cli
from support.coco_samples import write_coco, write_model
from support.commands import run, run_here, script
from support.sources import plan_of, seeded, small_config, write_checkpoint

COMMANDS = {"convert": cli.convert, "detect": cli.detect, "verify": cli.verify}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that commands read."""
    folder = tmp_path_factory.mktemp("made")
    write_model(folder / "model.pth")
    write_coco(folder / "coco")
    for name in ("ckpt", "broken"):
        (folder / name).mkdir()
    write_checkpoint(folder / "ckpt" / "model", seeded(plan_of(small_config())))
    (folder / "ckpt" / "config.yaml").write_text("image_size: 64\n")
    (folder / "settings.yaml").write_text("image_size: 64\n")
    (folder / "labels.txt").write_text("a\nb\n")
    (folder / "expected.json").write_text("[]")
    (folder / "broken.pth").write_bytes(b"PK\x03\x04 broken")
    for name in ("checkpoint", "config.yaml", "model.index", "model.data-00000-of-00001"):
        (folder / "broken" / name).write_text("broken")
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / "photo.jpg")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    Path("hard").hardlink_to("photo.jpg")
    Path("soft").symlink_to("model.pth")
    return Path.cwd()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def call(line: str) -> Result:
    command, *words = line.split()
    return CliRunner().invoke(COMMANDS[command], words)


DETECT, LAYERS = "detect model.pth photo.jpg --labels labels.txt", "verify model.pth --reference ckpt"
COCO = "verify model.pth --coco coco --workers 0 --labels labels.txt --reference-results expected.json"
ANNOTATIONS = "coco/annotations/instances_val2017.json"
OVERWRITING = [
    *("convert model.pth model.pth", "convert model.pth soft.pth", "convert ckpt ckpt --to tf1"),
    *("convert ckpt/model ckpt --to tf1", "convert ckpt/model.index ckpt/model.index --to tf1"),
    *(f"convert ckpt m.pth --report ckpt/{name}" for name in ("checkpoint", "config.yaml", "model.index")),
    *("convert ckpt/model m.pth --report ckpt/config.yaml", "convert ckpt/model m.pth --report ckpt/checkpoint"),
    *("convert model.pth m.pth --report model.pth", "convert model.pth m.pth --report soft"),
    *("convert ckpt m.pth --hparams settings.yaml --report settings.yaml", "convert ckpt m.pth --report m.pth"),
    *("convert broken.pth m.pth --report broken.pth", "convert broken.pth m.wrong --report broken.pth"),
    *("convert broken.pth --report broken.pth", "convert broken m.pth --report broken/checkpoint"),
    *(f"convert broken/model m.pth --report broken/{name}" for name in ("model.data-00000-of-00001", "config.yaml")),
    *(f"{DETECT} --json {name}" for name in ("model.pth", "soft", "photo.jpg", "hard", "labels.txt")),
    *(f"{DETECT} --out {name}" for name in (".", "../here")),
    *(f"{COCO} --results {name}" for name in ("model.pth", "soft", "labels.txt", "expected.json", ANNOTATIONS)),
    *(f"{COCO} --results coco/val2017/000000000007.jpg", f"{LAYERS} --image photo.jpg --results hard"),
    *(f"{COCO} --save-csv {name}" for name in ("tables/x.csv", "tables/model.csv")),
    f"{COCO} --compare other.pth --results other.pth",
    f"{COCO} --results curves --save-csv tables/y.csv",
    "verify model.pth --annotations report.json --images coco/val2017 --report-dir .",
    "verify model.pth --coco coco --results new/report.json --report-dir new",
]  # fmt: skip


@pytest.mark.parametrize("line", OVERWRITING)
def test_an_output_that_is_an_input_is_refused(folder: Path, line: str) -> None:
    Path("soft.pth").symlink_to("model.pth")
    for name in ("new", "tables"):
        Path(name).mkdir()
    Path("tables/model_images.csv").hardlink_to("model.pth")
    Path("tables/x_confusion.csv").symlink_to("../labels.txt")
    Path("curves").symlink_to("tables/y_curves.csv")  # which the table of the classes would write, too
    shutil.copy("model.pth", "other.pth")
    shutil.copy(ANNOTATIONS, "report.json")
    before = contents(folder)
    done = call(line)
    assert done.exit_code == 2
    assert " would overwrite " in done.stderr
    assert "choose another name or folder" in done.stderr
    assert contents(folder) == before


@pytest.mark.parametrize(
    "line",
    [
        "convert ckpt ckpt/m.pth --report ckpt/report.json --hparams settings.yaml",
        "convert ckpt/model new --to tf1 --report report.json",
        f"{DETECT} --json found.json --out drawn",
        f"{COCO} --results coco/results.json --report-dir coco/annotations --save-csv coco/x.csv --compare soft",
    ],
)
def test_other_outputs_are_written_and_written_again(folder: Path, line: str) -> None:
    """Negative control of the one above: what is refused there is not refused here, nor when it is there already."""
    before = contents(folder)
    for _ in range(2):
        done = call(line)
        assert "would overwrite" not in done.stderr
        assert done.exit_code == (1 if line.startswith(COCO) else 0), done.stderr  # expected.json is empty
        after = contents(folder)
        assert len(after) > len(before)
        assert {name: after[name] for name in before} == before


def test_the_files_that_a_state_file_names_elsewhere_are_inputs(folder: Path) -> None:
    Path("moved").mkdir()
    for path in Path("ckpt").glob("model.*"):
        path.rename(Path("moved") / path.name)
    Path("ckpt/checkpoint").write_text(f'model_checkpoint_path: "{folder}/moved/model"\n')
    before = contents(folder)
    done = call("convert ckpt m.pth --report moved/model.index")
    assert (done.exit_code, "would overwrite" in done.stderr) == (2, True)
    assert contents(folder) == before


def test_an_official_name_may_be_the_name_of_the_output(folder: Path) -> None:
    """`effdet-convert d0 d0 --to tf1`: nothing of that name is read."""
    done = call("convert d0 d0 --to tf1 --report ckpt/none/r.json")
    assert "the folder ckpt/none does not exist" in done.stderr
    assert "would overwrite" not in call("convert no-such-name no-such-name --to tf1").stderr


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("convert LONG m.pth", 1),
        ("convert ckpt m.pth --hparams LONG=1", 2),
        ("convert ckpt m.pth --report LONG", 1),
        ("convert ckpt m.pth --report LONG/r.json", 2),
        (f"{DETECT} --json LONG", 1),
        (f"{COCO} --results LONG", 1),
    ],
)
def test_a_name_that_is_too_long_is_an_error(folder: Path, line: str, code: int) -> None:
    before = contents(folder)
    done = call(line.replace("LONG", 300 * "x"))
    assert (done.exit_code, "Error: " in done.stderr) == (code, True)
    assert isinstance(done.exception, SystemExit)
    assert contents(folder) == before


# Stdout.


@pytest.mark.parametrize("name", ["-", pytest.param("/dev/stdout", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("command", "option", "text", "code"),
    [
        ("convert ckpt m.pth", "--report", "m.pth: ", 0),
        ("convert ckpt m.pth --weights ema", "--report", "Error: ", 1),
        ("detect model.pth photo.jpg --score 0", "--json", "photo.jpg: 45 x class 2, ", 0),
        ("verify model.pth --coco coco --workers 0", "--results", "EVALUATED", 0),
    ],
)
def test_only_json_goes_to_stdout(folder: Path, name: str, command: str, option: str, text: str, code: int) -> None:
    program, *words = command.split()
    done = run(f"effdet-{program}", *words, option, name, cwd=folder)
    assert done.returncode == code, done.stderr
    assert json.loads(done.stdout)
    assert text in done.stderr
    plain = run_here(f"effdet-{program}", *words, cwd=folder)  # negative control
    assert (text in plain.stdout, text in plain.stderr) == (code == 0, code == 1)
    assert not {path.name for path in folder.iterdir()} & {"-", "stdout", "-.partial", "stdout.partial"}


def test_stdout_that_is_a_file_is_appended_to_and_not_replaced(folder: Path) -> None:
    with Path("log").open("w+") as log:
        log.write("before\n")
        log.flush()
        words = [script("effdet-convert"), "ckpt", "m.pth", "--dry-run", "--report", "/dev/stdout"]
        subprocess.run(words, stdout=log, stderr=subprocess.DEVNULL, check=True)
        log.write("after\n")
    first, *lines, last = Path("log").read_text().splitlines()
    assert (first, last) == ("before", "after")
    assert json.loads("".join(lines))["ok"] is True


def test_a_table_with_others_beside_it_must_be_a_file(folder: Path) -> None:
    os.mkfifo("pipe")
    for name in ("-", "/dev/stdout", "pipe"):
        done = call(f"{COCO} --save-csv {name}")
        assert (done.exit_code, f"{name} is a stream; name a file" in " ".join(done.stderr.split())) == (2, True)


# Failures.


def test_a_run_whose_report_fails_leaves_nothing_behind(folder: Path) -> None:
    before = contents(folder)
    reading, writing = os.pipe()
    os.close(reading)
    for out in (["m.pth"], ["m.h5"], ["new", "--to", "tf1"]):
        words = [script("effdet-convert"), "ckpt", *out, "--report", f"/dev/fd/{writing}"]
        done = subprocess.run(words, pass_fds=[writing], capture_output=True, text=True, check=False)
        message = f"Error: /dev/fd/{writing} cannot be written: Broken pipe; choose another output\n"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", message)
        assert contents(folder) == before
        assert not Path(out[0]).exists()
    os.close(writing)


def test_a_report_that_cannot_be_replaced_stays_and_so_does_the_output(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "convert ckpt m.pth --report report.json"
    assert call(line).exit_code == 0
    before, replace = contents(folder), Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target.name == "report.json":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    done = call(f"{line} --hparams image_size=128")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "Error: report.json cannot be written: No space left on device; nothing was changed\n"
    assert contents(folder) == before
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert call(f"{line} --hparams image_size=128").exit_code == 0  # negative control
    assert contents(folder).keys() == before.keys()
    assert contents(folder) != before


@pytest.mark.parametrize("existed", [True, False])
def test_what_a_killed_run_left_neither_blocks_nor_counts(folder: Path, existed: bool) -> None:
    line = "convert ckpt new --to tf1 --report report.json"
    if existed:
        assert call(line).exit_code == 0
    Path("new").mkdir(exist_ok=True)
    for name in ("config.yaml", "checkpoint", "model.index", "model.data-00000-of-00001"):
        Path("new", f".{name}.part").write_bytes(bytes(1000))
        Path("new", f".{name}.k1ll_d00.part").write_bytes(bytes(1000))  # of two runs at once; it stays
    assert call(line).exit_code == 0
    files = {path.name: path.stat().st_size for path in Path("new").iterdir()}
    assert len([name for name in files if name.startswith(".")]) == 4
    size = json.loads(Path("report.json").read_text())["out"]["size_bytes"]
    assert size == sum(size for name, size in files.items() if not name.startswith("."))
    Path("new", ".notes.part").touch()  # negative control: of another file
    done = call(line)
    assert (done.exit_code, "holds other files (.notes.part)" in done.stderr) == (2, True)
