"""The mutation score: every kind of corruption is noticed where it is, and an uncorrupted model reports nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.verification import mutation
from benchmarks.verification.mutation import EXCHANGED, SCALED, Mutation, main, mutated, mutation_score, plan_mutations
from converter.conversion import Preparation, prepare
from converter.locate import open_checkpoint
from effdet_torch.network.checkpoint import load_model
from effdet_torch.network.model import EfficientDet
from support.sources import plan_of, small_config
from verify import demo
from verify.demo import write_demo
from verify.layers.parity import one_thread

pytest.importorskip("tensorflow")

SIZE = 64  # P5, the highest level here, is 2x2
SAMPLE = 30


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
    images = np.random.default_rng(0).standard_normal((1, SIZE, SIZE, 3), np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "get_config", lambda variant: small_config())
        checkpoint, path = write_demo("d0", tmp_path_factory.mktemp("mutation"))
    with open_checkpoint(checkpoint) as source:
        yield Converted(prepare(source), load_model(path), images)


def test_every_mutation_is_caught_at_its_layer_only(converted: Converted) -> None:
    before = deepcopy(converted.model.state_dict())
    score = mutation_score(*converted, sample=SAMPLE)
    assert len(score.outcomes) == 2 * SAMPLE
    assert score.survivors == []
    assert all(outcome.audited for outcome in score.outcomes)
    assert len(score.networks) >= 6
    assert all(network.excess > 1 and network.layer for network in score.networks)
    assert [(control.dtype, control.reported) for control in score.controls] == [("float64", 0), ("float32", 0)]
    assert {outcome.mutation.how for outcome in score.outcomes} == {SCALED, EXCHANGED}
    assert all(torch.equal(before[key], tensor) for key, tensor in converted.model.state_dict().items())


def test_a_blind_comparison_catches_nothing(
    converted: Converted, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Negative control: without tolerances, all mutations survive, and the page lists them."""
    monkeypatch.setattr(mutation, "tolerance", lambda *_: math.inf)
    monkeypatch.setattr(demo, "get_config", lambda variant: {"d1": small_config()}[variant])
    main(["--variant", "d1", "--sample", "2", "--size", "64"])
    command = "python -m benchmarks.verification.mutation --variant d1 --sample 2 --size 64"
    page = capsys.readouterr().out
    assert page.startswith(f"# Mutation score\n\nWritten by `{command}`; do not edit.")
    assert "converted d1" in page
    assert page.count("| 0.0% |") >= 2
    survivors = page.split("## Survivors")[1].split("##")[0]
    assert survivors.count("* ") == 4


def test_a_broken_model_shows_in_the_control(converted: Converted) -> None:
    model = deepcopy(converted.model)
    with torch.no_grad():
        model.state_dict()["box_net.predict.conv_pw.bias"].add_(1)
    score = mutation_score(converted.preparation, model, converted.images, dtypes=("float64",), sample=1)
    assert [control.reported for control in score.controls] == [len(converted.model.config.levels)]


def test_all_tensors_are_mutated_or_left_out_for_a_reason() -> None:
    plan = plan_of(small_config())
    state_dict = {key: torch.ones(entry.target_shape) for key, entry in plan.targets.items()}
    state_dict["backbone.bn1.bias"].zero_()
    mutations, excluded = plan_mutations(plan, state_dict)
    counters = [key for key in plan.targets if key.endswith("num_batches_tracked")]
    scaled = [tensor for mutation in mutations if mutation.how == SCALED for tensor in mutation.tensors]
    assert set(scaled) == set(plan.targets) - {*counters, "backbone.bn1.bias"}
    exchanged = {mutation.tensors for mutation in mutations if mutation.how == EXCHANGED}
    assert exchanged
    assert all("backbone.bn1.bias" in tensors for tensors in exchanged)  # all others are equal
    assert excluded["batch counter: no layer computes with it"] == 2 * len(counters)
    assert excluded["all values are zero: there is nothing to scale"] == 1
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
