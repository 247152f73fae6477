"""The mutation score: every kind of corruption is noticed where it is, and an uncorrupted model reports nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks import mutation, mutation_testing
from benchmarks.mutation import main, to_markdown
from benchmarks.mutation_testing import EXCHANGED, SCALED, Mutation, mutated, mutation_score, plan_mutations
from converter.conversion import Preparation, convert_checkpoint, prepare
from converter.locate import open_checkpoint
from effdet_torch.network.checkpoint import load_model
from effdet_torch.network.model import EfficientDet
from support.sources import plan_of, small_config
from verify.layers.parity import one_thread
from verify.seeded import write_seeded_checkpoint

pytest.importorskip("tensorflow")

SIZE = 64  # P5, the highest level here, is 2x2
SAMPLE = 30
BROKEN = "box_net/box-predict (P3)"


class Converted(NamedTuple):
    """A checkpoint and the model made from it."""

    preparation: Preparation
    model: EfficientDet
    images: NDArray[np.float32]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Converted]:
    folder = tmp_path_factory.mktemp("mutation")
    images = np.random.default_rng(0).standard_normal((1, SIZE, SIZE, 3), np.float32)
    with open_checkpoint(write_seeded_checkpoint(small_config(), folder)) as source:
        preparation = prepare(source)
        convert_checkpoint(preparation, folder / "model.pth")
        yield Converted(preparation, load_model(folder / "model.pth"), images)


def test_every_mutation_is_caught_at_its_layer_only(converted: Converted) -> None:
    score = mutation_score(*converted, sample=SAMPLE)
    assert len(score.outcomes) == 2 * SAMPLE
    assert score.survivors == ()
    assert [outcome for outcome in score.outcomes if outcome.elsewhere or not outcome.audited] == []
    assert [(control.dtype, control.reported) for control in score.controls] == [("float64", 0), ("float32", 0)]
    assert {outcome.mutation.how for outcome in score.outcomes} == {SCALED, EXCHANGED}


def test_no_other_layer_reports(converted: Converted) -> None:
    score = mutation_score(*converted, dtypes=("float64",), sample=4, everywhere=True)
    assert [(outcome.caught, outcome.elsewhere) for outcome in score.outcomes] == [(True, ())] * 4


def test_without_tolerances_nothing_is_caught(converted: Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutation_testing, "tolerance", lambda *_: math.inf)
    score = mutation_score(*converted, dtypes=("float32",), sample=5)
    assert score.survivors == score.outcomes
    assert len(score.outcomes) == 5
    assert all(outcome.audited for outcome in score.outcomes)


def test_a_broken_layer_shows_elsewhere(converted: Converted) -> None:
    model = deepcopy(converted.model)
    with torch.no_grad():
        model.state_dict()["box_net.predict.conv_pw.bias"].add_(1)
    score = mutation_score(
        converted.preparation, model, converted.images, dtypes=("float64",), sample=3, everywhere=True
    )
    assert all(BROKEN in outcome.elsewhere for outcome in score.outcomes)
    assert [control.reported for control in score.controls] == [len(converted.model.config.levels)]


def test_the_model_stays_as_it_is(converted: Converted) -> None:
    before = deepcopy(converted.model.state_dict())
    mutation_score(*converted, dtypes=("float32",), sample=3)
    assert all(torch.equal(before[key], tensor) for key, tensor in converted.model.state_dict().items())


def test_all_tensors_are_mutated_or_left_out_for_a_reason(converted: Converted) -> None:
    plan = plan_of(small_config())
    mutations, excluded = plan_mutations(plan, converted.model.state_dict())
    counters = [key for key in plan.targets if key.endswith("num_batches_tracked")]
    assert {key for mutation in mutations for key in mutation.tensors} == set(plan.targets) - set(counters)
    assert len([mutation for mutation in mutations if mutation.how == SCALED]) == len(plan.targets) - len(counters)
    assert {reason.split(":")[0]: count for reason, count in excluded.items()} == {
        "batch counter": 2 * len(counters),
        "no other tensor of its kind and shape to be exchanged with": sum(
            reason.startswith("no other") * count for reason, count in excluded.items()
        ),
    }


def test_mutations_that_say_nothing_are_left_out() -> None:
    plan = plan_of(small_config())
    state_dict = {key: torch.ones(entry.target_shape) for key, entry in plan.targets.items()}
    state_dict["backbone.bn1.bias"].zero_()
    mutations, excluded = plan_mutations(plan, state_dict)
    assert Mutation(SCALED, ("backbone.bn1.bias",)) not in mutations
    assert excluded["all values are zero: there is nothing to scale"] == 1
    exchanged = {mutation.tensors for mutation in mutations if mutation.how == EXCHANGED}
    assert exchanged
    assert all("backbone.bn1.bias" in tensors for tensors in exchanged)  # all others are equal
    assert excluded["equal to its neighbour"] > 100


def test_mutated_changes_and_restores() -> None:
    state_dict = {"one": torch.tensor([[1.0, -4.0], [2.0, 3.0]]), "other": torch.zeros(2, 2)}
    with mutated(state_dict, Mutation(SCALED, ("one",))):
        assert torch.equal(state_dict["one"], torch.tensor([[1.0, -4.04], [2.0, 3.0]]))
    with mutated(state_dict, Mutation(EXCHANGED, ("one", "other"))):
        assert torch.equal(state_dict["one"], torch.zeros(2, 2))
        assert torch.equal(state_dict["other"], torch.tensor([[1.0, -4.0], [2.0, 3.0]]))
    assert torch.equal(state_dict["one"], torch.tensor([[1.0, -4.0], [2.0, 3.0]]))
    assert torch.equal(state_dict["other"], torch.zeros(2, 2))


def test_markdown_lists_survivors(converted: Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutation_testing, "tolerance", lambda *_: math.inf)
    score = mutation_score(*converted, dtypes=("float32",), sample=2)
    page = to_markdown(score, "the command", "d0", SIZE)
    assert "Written by `the command`" in page
    assert f"| float32 | {score.outcomes[0].mutation.how} |" in page
    assert all(outcome.mutation.tensors[0] in page for outcome in score.outcomes)
    assert "| 0.0% |" in page


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutation, "get_config", lambda variant: {"d1": small_config()}[variant])
    out = tmp_path / "score.json"
    main(["--variant", "d1", "--sample", "2", "--size", "64", "--json", str(out)])
    page = capsys.readouterr().out
    assert page.startswith(
        "# Mutation score\n\nWritten by `python -m benchmarks.mutation --variant d1 --sample 2 --size 64"
    )
    assert "converted d1" in page
    assert "| 100.0% |" in page
    outcomes = json.loads(out.read_text())["outcomes"]
    assert [outcome["dtype"] for outcome in outcomes] == ["float64", "float64", "float32", "float32"]
