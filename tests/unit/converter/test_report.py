"""Reports of `converter`: plain values whose numbers add up, and the lines that people read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from converter.conversion import Preparation, convert_checkpoint, prepare
from converter.inspection import inspect_source, tensor_rows
from converter.plan.copies import ViewName
from converter.report import conversion_report, conversion_text, inspection_text, tensors_text
from support.sources import (
    Array,
    MemorySource,
    averages,
    initial,
    placeholders,
    plan_of,
    seeded,
    small_config,
    training_checkpoint,
)


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, Array]:
    return training_checkpoint(plan_of(small_config()))


@pytest.fixture(scope="module")
def prepared(checkpoint: dict[str, Array]) -> Preparation:
    return prepare(MemorySource(checkpoint))


def lines(text: str) -> dict[str, str]:
    """Return {label: rest} of a text of lines."""
    return {line.split(maxsplit=1)[0]: line[12:].strip() for line in text.splitlines()}


@pytest.mark.parametrize("weights", ["ema", "raw"])
@pytest.mark.parametrize("kept", [False, True])
def test_the_numbers_add_up(checkpoint: dict[str, Array], weights: ViewName, kept: bool) -> None:
    report = conversion_report(prepare(MemorySource(checkpoint), weights=weights, keep_redundant_bias=kept), None, None)
    accounting = report["accounting"]
    parts = [accounting["consumed"], accounting["other_view"], list(accounting["ignored"])]
    assert sorted(name for part in parts for name in part) == sorted(checkpoint)
    assert accounting["variables"] == len(checkpoint)
    assert bool(accounting["folded"]) is not kept


def test_a_dry_run_says_so(prepared: Preparation) -> None:
    report = conversion_report(prepared, None, None)
    assert (report["ok"], report["dry_run"], report["out"]) == (True, True, None)
    assert report["tensors"] == len(prepared.plan.targets)
    assert json.loads(json.dumps(report)) == report
    text = lines(conversion_text(report))
    assert text["result"] == f"complete: {len(prepared.plan.targets)} tensors would be written (dry run)"


def test_a_conversion_says_what_was_written(tmp_path: Path, prepared: Preparation) -> None:
    out = tmp_path / "model.pth"
    metadata = convert_checkpoint(prepared, out)
    report = conversion_report(prepared, metadata, out)
    size = out.stat().st_size
    assert report["out"] == {"path": str(out), "size_bytes": size}
    assert report["dry_run"] is False
    assert report.items() >= metadata.items()
    text = lines(conversion_text(report))
    count = len(prepared.plan.variables)
    folded = len(report["accounting"]["folded"])
    assert text["result"] == f"{out}: {len(prepared.plan.targets)} tensors, {size / 1e6:.1f} MB"
    assert text["source"] == "memory model"
    assert text["model"].startswith("d0, 2 classes, 9 anchors per location, 512 x 512 pixels, ")
    assert text["weights"] == "ema: the checkpoint has averages (EMA), which the official results use"
    assert text["variables"] == (
        f"{3 * count + 1}: {count} converted ({folded} biases folded into batch norms), {count} other copies, "
        f"{count} ignored (optimizer slot: momentum), 1 ignored (training step counter)"
    )
    assert "a custom architecture" in text["note"]


def test_kept_biases_are_not_called_folded(checkpoint: dict[str, Array]) -> None:
    prepared = prepare(MemorySource(checkpoint), keep_redundant_bias=True)
    assert "folded" not in conversion_text(conversion_report(prepared, None, None))


def test_pixels_are_height_by_width(checkpoint: dict[str, Array]) -> None:
    prepared = prepare(MemorySource(checkpoint), hparams="image_size=640x384")
    assert "384 x 640 pixels" in conversion_text(conversion_report(prepared, None, None))


def test_an_inspection_in_words(tmp_path: Path, checkpoint: dict[str, Array]) -> None:
    (tmp_path / "model.index").write_bytes(b"x" * 160_000)
    source = MemorySource(checkpoint)
    source.on_disk = (tmp_path / "model.index",)
    text = inspection_text(inspect_source(source))
    found, count = lines(text), len(plan_of(small_config()).variables)
    assert found["files"] == "model.index (0.2 MB)"
    assert found["variables"] == f"{3 * count + 1} ({3 * count} float32, 1 int64)"
    assert found["network"] == "efficientnet-b0, BiFPN 1 x 8 channels, weighted fusion, heads x 1, levels 3-5"
    assert found["variants"] == "none of the official detectors"
    assert found["ema"] == "complete"
    assert f"raw and ema  differ in {count} of {count}" in text
    assert found["step"] == "780"
    assert f"ignored      {count} x optimizer slot: momentum" in text
    assert "problem" not in text


def test_every_state_of_the_copies_has_its_words() -> None:
    plan = plan_of(small_config())
    values, count = seeded(plan), len(plan.variables)
    raw_only = inspection_text(inspect_source(MemorySource(values)))
    assert lines(raw_only)["ema"] == "absent"
    assert "only one copy" in raw_only
    assert lines(raw_only)["step"] == "none"
    untrained = inspection_text(inspect_source(MemorySource({**values, **averages(initial(plan))})))
    assert lines(untrained)["ema"] == "complete, UNTRAINED: every batch norm holds its initial values"
    index = inspection_text(inspect_source(MemorySource({**values, **averages(values)}, data=False)))
    assert lines(index)["ema"] == "complete, data not at hand"
    assert "not compared, data not at hand" in index
    one = dict(list(averages(values).items())[:1])
    assert lines(inspection_text(inspect_source(MemorySource(values | one))))["ema"].startswith(
        f"1 of {count} variables"
    )


def test_ambiguous_variants_and_problems_are_lines() -> None:
    arrays = placeholders(plan_of("d7"))
    arrays["stranger"] = np.zeros(1, np.float32)
    text = inspection_text(inspect_source(MemorySource(arrays, data=False)))
    assert lines(text)["variants"] == "d6 or d7"
    assert lines(text)["problem"] == "unexpected: stranger"


def test_another_network_has_no_model_line() -> None:
    text = inspection_text(inspect_source(MemorySource({"a": np.zeros(1, np.float32)})))
    assert "holds 1 variable (a). It looks like another network" in lines(text)["problem"]
    assert "model" not in lines(text)


def test_tensors_are_lines_with_tabs() -> None:
    rows = tensor_rows(MemorySource({"b/c": np.zeros((1, 2), np.float32), "a": np.array(1, np.int64)}))
    assert tensors_text(rows) == "a\tint64\t()\nb/c\tfloat32\t(1, 2)"
