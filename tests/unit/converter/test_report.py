"""The reports of conversion and inspection: whole texts against golden files, and numbers that add up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.conversion import converting, prepare
from converter.identify.official import official_files
from converter.inspection import inspect_source, tensor_rows
from converter.plan.copies import ViewName
from converter.report import conversion_report, conversion_text, inspection_text, official_text, tensors_text
from converter.writers.targets import TARGETS
from support.golden_files import GOLDEN, check_golden
from support.sources import (
    MemorySource,
    averages,
    initial,
    placeholders,
    plan_of,
    seeded,
    small_config,
    training_checkpoint,
)

PLAN = plan_of(small_config())
CHECKPOINT, VALUES = training_checkpoint(PLAN), seeded(PLAN)
ADVPROP = "image_size=640x384,mean_rgb=0,stddev_rgb=1,scale_range=true"


def converted(target: str = "pth", bare: bool = False, hparams: str | None = None, **options: Any) -> str:
    official = {"official": "efficientdet-d0-advprop", "url": "https://there/d0.tar.gz"}
    source = MemorySource(CHECKPOINT, provenance=official if hparams else {})
    prepared = prepare(source, hparams=hparams, **options).for_target(TARGETS[target], bare)
    return conversion_text(conversion_report(prepared, None, None, TARGETS[target], bare))


def inspected(arrays: dict[str, Any], **options: Any) -> str:
    return inspection_text(inspect_source(MemorySource(arrays, **options)))


def test_an_untrained_network_is_called_so() -> None:
    assert "UNTRAINED" not in converted(weights="raw")  # negative control
    report = conversion_report(prepare(MemorySource({**VALUES, **initial(PLAN)})), None, None)
    assert "note         UNTRAINED: every batch norm holds its initial values" in conversion_text(report)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), None),
        (("cat", "dog"), "classes      2 with a name: cat, dog\n"),
        (tuple("abcdefg"), "classes      7 with a name: a, b, c, d, e, and 2 more\n"),
    ],
)
def test_names_of_classes_are_listed(names: tuple[str, ...], expected: str | None) -> None:
    label_map = dict(enumerate(names, start=1))
    checkpoint = training_checkpoint(plan_of(small_config(num_classes=7)))
    source = MemorySource(checkpoint, given=(("its metadata", {"label_map": label_map}),))
    facts = inspect_source(source)
    text = inspection_text(facts)
    assert expected in text if expected else "classes   " not in text
    assert facts["config"]["label_map"] == [list(pair) for pair in label_map.items()]  # all of them, in --json


def test_what_a_source_lost_is_told_and_nothing_where_nothing_is_lost() -> None:
    lost = ("gamma apart from the kernel", "raw values")
    assert "lost         cannot be recovered: gamma apart from the kernel, raw values\n" in inspected(
        {"a": np.zeros(1)}, unrecoverable=lost
    )
    assert inspect_source(MemorySource(CHECKPOINT, unrecoverable=lost))["unrecoverable"] == list(lost)
    assert "cannot be recovered" not in inspected(CHECKPOINT)  # negative control


def test_a_model_that_pads_unlike_its_variant_says_so() -> None:
    assert "padding" not in converted()  # negative control
    assert "128 pixels, padding symmetric, resampling bilinear, 3." in converted(
        hparams="image_size=128,padding=symmetric,resampling=bilinear"
    )


def test_the_list_of_official_files_fits_a_terminal() -> None:
    lines = official_text(official_files().values()).split("\n")
    assert max(map(len, lines)) <= 80
    assert lines[-1].startswith("as for ImageNet: mean 123.675, ")


CASES = {
    "conversion": lambda: converted(),
    "conversion_raw_kept": lambda: converted(weights="raw", keep_redundant_bias=True),
    "conversion_raw_to_tf1": lambda: converted("tf1", weights="raw"),
    "conversion_of_download": lambda: converted(hparams=ADVPROP),
    "conversion_bare": lambda: converted(bare=True),
    "inspection": lambda: inspected(CHECKPOINT),
    "inspection_index_alone": lambda: inspected({**VALUES, **averages(VALUES)}, data=False),
    "inspection_raw_alone": lambda: inspected(VALUES),
    "inspection_averages_alone": lambda: inspected(averages(VALUES)),
    "inspection_untrained_averages": lambda: inspected({**VALUES, **averages(initial(PLAN))}),
    "inspection_one_average": lambda: inspected({**VALUES, **dict(list(averages(VALUES).items())[:1])}),
    "inspection_ambiguous": lambda: inspected(placeholders(plan_of("d7")) | {"stranger": np.zeros(1)}, data=False),
    "inspection_incomplete": lambda: inspected({name: VALUES[name] for name in list(VALUES)[:-1]}),
    "inspection_unknown": lambda: inspected({"resnet/kernel": np.zeros((1, 2), np.float32)}),
    "inspection_empty": lambda: inspected({}),
    "tensors": lambda: tensors_text(
        tensor_rows(
            MemorySource({"b/c": np.zeros((1, 2), np.float32), "a": np.array(1), "d": np.array(b"text", object)})
        )
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_text_equals_the_golden_file(request: pytest.FixtureRequest, case: str) -> None:
    check_golden(request, f"converter/{case}.txt", CASES[case]())


def test_facts_equal_the_golden_file(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    (tmp_path / "model.index").write_bytes(b"12345")
    source = MemorySource(CHECKPOINT)
    source.on_disk = (tmp_path / "model.index",)
    check_golden(request, "converter/inspection.json", json.dumps(inspect_source(source), indent=2))


def test_one_changed_variable_shows() -> None:
    """Negative control."""
    changed = inspected({name: array for name, array in CHECKPOINT.items() if name != "global_step"})
    assert changed != (GOLDEN / "converter/inspection.txt").read_text("utf-8").removesuffix("\n")


def test_no_golden_file_is_left_over() -> None:
    names = {f"{case}.txt" for case in (*CASES, "inspection_of_training")} | {"inspection.json"}
    assert {path.name for path in (GOLDEN / "converter").iterdir()} == names


@pytest.mark.parametrize("weights", ["ema", "raw"])
@pytest.mark.parametrize("kept", [False, True])
def test_the_numbers_add_up(weights: ViewName, kept: bool) -> None:
    prepared = prepare(MemorySource(CHECKPOINT), weights=weights, keep_redundant_bias=kept)
    report = conversion_report(prepared, None, None)
    assert (report["ok"], report["dry_run"], report["out"]) == (True, True, None)
    assert report["tensors"] == len(prepared.plan.targets)
    assert json.loads(json.dumps(report)) == report
    accounting = report["accounting"]
    parts = [accounting["consumed"], accounting["other_view"], list(accounting["ignored"])]
    assert sorted(name for part in parts for name in part) == sorted(CHECKPOINT)
    assert accounting["variables"] == len(CHECKPOINT)
    assert bool(accounting["folded"]) is not kept
    assert sum(counts["tensors"] for counts in report["origins"].values()) == report["tensors"]
    made = sum(counts["variables"] for counts in report["origins"].values())
    assert made + len(accounting["folded"]) == len(accounting["consumed"])
    counters = [key for key in prepared.plan.targets if key.endswith("num_batches_tracked")]
    assert report["origins"]["added"] == {"tensors": len(counters), "variables": 0}


def test_formats_of_tensorflow_have_no_tensors_to_explain() -> None:
    report = conversion_report(prepare(MemorySource(CHECKPOINT)), None, None, TARGETS["tf1"])
    assert report["origins"] == {}
    assert "\ntensors " not in conversion_text(report)


def test_kinds_of_tensors_that_a_network_lacks_are_not_told() -> None:
    report = conversion_report(prepare(MemorySource(CHECKPOINT)), None, None)
    assert " stacked variables" in conversion_text(report)
    nothing = {"tensors": 0, "variables": 0}
    assert " stacked variables" not in conversion_text(report | {"origins": report["origins"] | {"stacked": nothing}})


@pytest.mark.parametrize("name", ["model.pth", "folder"])
def test_a_conversion_reports_what_was_written(tmp_path: Path, name: str) -> None:
    out, target = tmp_path / name, TARGETS["pth" if name.endswith(".pth") else "tf1"]
    prepared = prepare(MemorySource(CHECKPOINT))
    with converting(prepared, out, target=target) as written:
        report = conversion_report(prepared, written, out, target)
        assert not any(path.exists() for path in target.files(out))  # they are not in their place yet
    size = sum(path.stat().st_size for path in ([out] if out.is_file() else out.iterdir()))
    assert report["out"] == {"path": str(out), "size_bytes": size}
    assert report["dry_run"] is False
    assert report.items() >= written.metadata.items()
    written = f"{len(target.specs(prepared.plan))} {'tensors' if out.is_file() else 'variables'}"
    assert conversion_text(report).splitlines()[-1] == f"result       {out}: {written}, {size / 1e6:.1f} MB"
