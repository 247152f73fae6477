"""docs/training.md: its tables are those of the code, and its Python runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import cli
from effdet_torch import load_model, save_model
from effdet_torch.train.input.augment import AUGMENTATIONS
from effdet_torch.train.recipe import DEFAULT, OFFICIAL, Difference
from effdet_torch.train.run.settings import MAY_CHANGE
from support.coco_samples import small_model, write_coco

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """Return the text between a heading and the next one of any level."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"docs/training.md has no section {title!r}"
    return found[1]


def table_of(rows: Mapping[str, Difference]) -> str:
    """Return the table of the settings in which the default recipe is not the official one."""
    lines = ["| setting | default | official | why |", "| --- | --- | --- | --- |"]
    for name, (value, reason) in rows.items():
        lines.append(f"| `{name}` | {shown(value)} | {shown(getattr(OFFICIAL, name))} | {reason} |")
    return "\n".join(lines) + "\n\n"


def shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{part:g}" for part in value)
    if value is None:
        return "automatic"
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_the_page_shows_where_the_recipes_differ() -> None:
    expected = table_of(DEFAULT)
    assert expected in section("Recipes"), f"docs/training.md is out of date; the table is now\n{expected}"
    changed = {**DEFAULT, "batch": Difference(8, DEFAULT["batch"].reason)}
    assert table_of(changed) not in TEXT  # negative controls
    assert table_of({name: row for name, row in DEFAULT.items() if name != "normalizer"}) not in TEXT


def test_the_page_names_every_option() -> None:
    first_cells = [line.split(" | ")[0] for line in section("Options").splitlines() if line.startswith("| `")]
    named = set(re.findall(r"--[a-z-]+", " ".join(first_cells)))
    options = {text for item in cli.train.params for text in (*item.opts, *item.secondary_opts) if text[:2] == "--"}
    everywhere = {"--quiet", "--verbose", "--version"}
    negations = {"--no-freeze-bn", "--no-amp", "--no-sync-bn"}  # as the recipes have it
    assert named == options - everywhere - negations


def test_the_page_has_every_augmentation_in_its_order() -> None:
    rows = re.findall(r"^\| `(\S+)`(?: to `-v(\d)`)? \| .* \| (yes|no)", section("Augmentations"), re.MULTILINE)
    names = list[tuple[str, bool]]()
    for name, last, official in rows:
        several = [f"{name[:-1]}{number}" for number in range(int(last) + 1)] if last else [name]
        names += [(each, official == "yes") for each in several]
    assert names == [(name, row.is_official) for name, row in AUGMENTATIONS.items()]


def test_the_page_names_what_a_resumed_run_may_change() -> None:
    text = section("The run folder").partition("**Resuming.**")[2].partition("may change")[0]
    options = {name.replace("-", "_") for name in re.findall(r"`--([a-z-]+)`", text)} - {"resume", "out"}
    assert options == set(MAY_CHANGE) - {"data", "batch_auto"}


def test_the_python_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    save_model(small_model(), tmp_path / "d0.pth")
    write_coco(tmp_path / "my_data", split="train2017")
    place: dict[str, Any] = {}
    exec(blocks[0], place)
    box, label = torch.tensor([[8.0, 8.0, 40.0, 50.0]]), torch.tensor([1])
    total = place["training_step"](torch.randn(2, 3, 64, 64), [box, box[:0]], [label, label[:0]])
    total.backward()
    assert total > 0
    assert all(parameter.grad is not None for parameter in place["model"].parameters())
    exec(blocks[1], place)
    losses = [float(line) for line in capsys.readouterr().out.split()]
    assert len(losses) == 3
    trained, before = (load_model(name).state_dict() for name in ("mine.pth", "d0.pth"))
    assert not torch.equal(trained["class_net.predict.conv_pw.bias"], before["class_net.predict.conv_pw.bias"])
