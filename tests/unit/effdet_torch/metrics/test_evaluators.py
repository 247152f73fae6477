"""Both evaluators against pycocotools as it is used by itself, bit for bit, on random annotations and detections."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from effdet_torch.errors import ConfigError, EvaluationError
from effdet_torch.metrics.coco import METRICS, BoxEvaluation, coco_metrics, evaluate_boxes
from effdet_torch.metrics.evaluators import EVALUATORS, RECORD, Evaluator, get_evaluator
from support.coco_samples import annotation, result
from support.random_boxes import Case, random_case

CASES = 48
EDGES = ("crowds", "no annotations", "no detections", "no category is used", "signs", "infinite boxes", "scores")


def installed(name: str) -> str:
    if name != RECORD:
        pytest.importorskip(name, reason=f"{name} (extra `fast-eval`) is not installed")
    return name


def edge_case(edge: str) -> Case:
    """A random case in which one thing is everywhere."""
    case = random_case(7)
    dataset, results, ids = case
    if edge == "crowds":
        dataset["annotations"] = [x | {"iscrowd": 1} for x in dataset["annotations"]]
    if edge == "no annotations":
        dataset["annotations"] = []
    if edge == "no detections":
        return Case(dataset, [], ids)
    if edge == "no category is used":
        dataset["categories"] = [{"id": 95, "name": "x"}]
    for number, found in enumerate(results):
        if edge == "signs":
            found["bbox"][number % 4] *= -1
        if edge == "infinite boxes" and number % 5 == 0:
            found["bbox"][number % 4] = float("inf")
        if edge == "scores":
            found["score"] = [-0.0, 0.0, -1.0, 1e-45, 1e300, float("inf"), -float("inf")][number % 7]
    return case


def oracle(case: Case) -> list[Any]:
    """Return precision, recall, scores and the 12 numbers as pycocotools computes them from files."""
    dataset, results, image_ids = case
    with contextlib.redirect_stdout(io.StringIO()), np.errstate(invalid="ignore"):
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        found = truth.loadRes(results) if results else COCO()
        if not results:
            found.dataset = dataset | {"annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [*(evaluation.eval[name] for name in ("precision", "recall", "scores")), evaluation.stats]


def evaluate(case: Case, evaluator: str) -> BoxEvaluation:
    with np.errstate(invalid="ignore"):
        return evaluate_boxes(*case, evaluator)


def differing(found: Sequence[Any], expected: Sequence[Any]) -> list[str]:
    names = ("precision", "recall", "scores", "summary")
    pairs = zip(names, found, expected, strict=True)
    return [name for name, x, y in pairs if x.shape != y.shape or x.tobytes() != y.tobytes()]


@pytest.mark.parametrize("name", EVALUATORS)
@pytest.mark.parametrize("seed", range(CASES))
def test_all_arrays_are_those_of_pycocotools(seed: int, name: str) -> None:
    case = random_case(seed)
    found = evaluate(case, installed(name))
    assert differing(found.curves, oracle(case)) == []
    assert found.category_ids == tuple(sorted(x["id"] for x in case.dataset["categories"]))


@pytest.mark.parametrize("name", EVALUATORS)
@pytest.mark.parametrize("edge", EDGES)
def test_so_they_are_at_the_edges(edge: str, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    case = edge_case(edge)
    assert differing(evaluate(case, installed(name)).curves, oracle(case)) == []
    assert capfd.readouterr() == ("", "")


def test_the_cases_hold_what_they_promise() -> None:
    cases = [random_case(seed) for seed in range(CASES)]
    crowds = sum(x["iscrowd"] for case in cases for x in case.dataset["annotations"])
    empty = sum(image not in {x["image_id"] for x in case.results} for case in cases for image in case.image_ids)
    unused = sum(
        category["id"] not in {x["category_id"] for x in case.dataset["annotations"]}
        for case in cases
        for category in case.dataset["categories"]
    )
    equal = sum(len(case.results) - len({x["score"] for x in case.results}) for case in cases)
    assert min(crowds, empty, unused) > 20
    assert equal > 1000
    assert np.mean([coco_metrics(*case)["AP"] > 0.05 for case in cases]) > 0.6


@pytest.mark.parametrize("name", EVALUATORS)
@pytest.mark.parametrize("change", ["score", "box", "crowd", "area"])
def test_a_small_change_shows(change: str, name: str) -> None:
    """Negative control: the comparison above would notice."""
    case = random_case(7)
    expected = evaluate(case, installed(name)).curves
    if change == "score":
        for found in case.results:
            found["score"] += 1e-9
    if change == "box":
        for found in case.results:
            found["bbox"][2] *= 1.05
    key, value = {"crowd": ("iscrowd", 1), "area": ("area", 1e4)}.get(change, ("", 0))
    case.dataset["annotations"] = [x | ({key: value} if key else {}) for x in case.dataset["annotations"]]
    assert differing(evaluate(case, name).curves, expected) != []


@pytest.mark.parametrize("name", EVALUATORS)
@pytest.mark.parametrize("ids", ["from 0", "one for all", "huge", "text"])
def test_ids_of_annotations_do_not_matter(ids: str, name: str) -> None:
    """pycocotools takes the id 0 for "not matched", and the last of equal ids for all of them."""
    case = random_case(7)
    first = case.dataset["annotations"][0]
    first["iscrowd"] = 0
    case.results.append(result(first["image_id"], first["category_id"], first["bbox"], 2.0))  # finds it
    expected = evaluate(case, installed(name)).curves
    for number, values in enumerate(case.dataset["annotations"]):
        values["id"] = {"from 0": number, "one for all": 5, "huge": 10**25 + number, "text": f"x{number}"}[ids]
    assert differing(evaluate(case, name).curves, expected) == []
    if ids in ("from 0", "one for all"):
        assert differing(oracle(case), expected) != []


@pytest.mark.parametrize("name", EVALUATORS)
def test_what_does_not_belong_is_left_out(name: str) -> None:
    case = random_case(7)
    expected = evaluate(case, installed(name)).curves
    case.results.append(result(10**10, case.results[0]["category_id"], (1, 2, 3, 4), 0.9))
    case.results.append(result(case.image_ids[0], 99, (1, 2, 3, 4), 0.9))
    assert differing(evaluate(case, name).curves, expected) == []


@pytest.mark.parametrize("name", EVALUATORS)
@pytest.mark.parametrize("place", ["score", "box", "annotation"])
def test_nan_is_refused(place: str, name: str) -> None:
    """pycocotools counts a box of NaN as a match; hotcoco does not, and refuses scores of NaN."""
    case, nan = random_case(7), float("nan")
    if place == "score":
        case.results[3]["score"] = nan
    else:
        rows = case.results if place == "box" else case.dataset["annotations"]
        rows[3]["bbox"] = [nan, 1.0, 2.0, 3.0]
    what = "annotation" if place == "annotation" else "detection"
    with pytest.raises(EvaluationError, match=rf"has the {what} .*nan.*; expected numbers, found NaN, in 1 of"):
        evaluate(case, installed(name))


def test_pycocotools_counts_a_box_of_nan_as_a_match() -> None:
    case = Case(
        {"images": [{"id": 1}], "annotations": [annotation(1, 1, 1, (0, 0, 9, 9))], "categories": [{"id": 1}]},
        [result(1, 1, [0.0, 0.0, float("nan"), 1.0], 0.9)],
        [1],
    )
    assert oracle(case)[-1][0] == pytest.approx(1)


# Which one


def test_auto_takes_the_faster_one_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.import_module(installed("hotcoco")).__version__
    assert get_evaluator() == Evaluator("hotcoco", version)
    assert str(get_evaluator("pycocotools")) == f"pycocotools {metadata.version('pycocotools')}"
    with monkeypatch.context() as patch:  # no test compares this version with pycocotools
        patch.setattr("effdet_torch.metrics.evaluators.metadata.version", lambda _: "2.0.0")
        assert get_evaluator().name == "pycocotools"
        assert get_evaluator("hotcoco").version == "2.0.0"


def test_without_the_faster_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    assert get_evaluator().name == "pycocotools"
    with pytest.raises(
        ConfigError, match=r"hotcoco is not installed: run pip install '\.\[fast-eval\]' in the checkout"
    ):
        get_evaluator("hotcoco")


def test_an_evaluator_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="unknown evaluator 'faster'; expected auto or one of pycocotools, hotcoco"):
        coco_metrics(*random_case(0), evaluator="faster")


def test_the_library_uses_the_number_of_record_by_default() -> None:
    case = random_case(1)
    assert evaluate_boxes(*case).evaluator.name == RECORD
    assert tuple(coco_metrics(*case)) == METRICS
