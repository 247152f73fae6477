"""What a verdict rests on: every kind of evidence, and what each requirement accepts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from support.verification_samples import ASSUMED, GRAPH, MODEL, OTHER_GRAPH, PASSING
from verify.results.claim import Claim, ClaimKind, claim_of

SHAPES = {"backbone": "names and shapes"}


def metadata(assumed: Any = None, **origins: str) -> dict[str, Any]:
    return {"config_origins": {**SHAPES, **origins}, "assumed": {} if assumed is None else assumed}


@pytest.mark.parametrize(
    ("found", "kind", "text"),
    [
        (metadata(activation="config.yaml"), "config", "config.yaml"),
        (metadata(activation="config.yaml of the parent folder"), "config", "config.yaml of the parent folder"),
        (metadata(activation="--hparams"), "config", "settings stated by --hparams"),
        (metadata(activation="the official d0"), "config", "the official d0"),
        (
            metadata(
                activation="graph (model.meta)", fusion="config.yaml"
            ),  # as weak as the weakest part of the network
            "config",
            "TensorFlow's own graph (model.meta), which was read, and config.yaml",
        ),
        (metadata(activation="table of official files"), "config", "an official file"),
        (metadata(activation="its metadata"), "config", "the metadata of its source"),
        (metadata(), "config", "names and shapes of the variables"),
        (
            metadata(activation="graph (model.meta)", image_size="config.yaml"),
            "graph read",
            "TensorFlow's own graph (model.meta), which was read, and config.yaml",
        ),
        (
            metadata({"act_type": "swish"}, image_size="config.yaml"),
            "assumed",
            "assumptions about 1 setting (act_type; effdet-inspect shows the values)",
        ),
        (
            metadata({"survival_prob": None, "scale_range": False, "image_size": 512, "anchor_scale": [4.0, 3.0]}),
            "assumed",
            "assumptions about 4 settings (image_size, survival_prob, scale_range, and 1 more; effdet-inspect shows "
            "the values)",
        ),
    ],
)
def test_the_metadata_of_a_file(found: dict[str, Any], kind: ClaimKind, text: str) -> None:
    assert claim_of(found) == Claim(kind, text)


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"config_origins": {"activation": "config.yaml"}},
        {"config_origins": {"activation": "config.yaml"}, "assumed": "nothing"},
        {"config_origins": [], "assumed": {}},
        {"config_origins": {"activation": "a dream"}, "assumed": {}},
    ],
)
def test_a_file_that_does_not_say(found: dict[str, Any]) -> None:
    claim = claim_of(found)
    assert claim.kind == "not recorded"
    assert "written before evidence was recorded" in claim.text
    assert not claim.satisfies("config")


def test_a_graph_that_ran_leaves_open_what_outputs_do_not_show() -> None:
    ran = "TensorFlow's own graph (saved_model.pb), which ran"
    assert claim_of({}, "saved_model.pb") == Claim("graph ran", ran)
    assert claim_of(metadata({"act_type": "swish"}), "saved_model.pb") == Claim("graph ran", ran)
    claim = claim_of(metadata({"act_type": "swish", "anchor_scale": 4.0}), "saved_model.pb")
    assert claim.text == (
        f"{ran}, and on assumptions about 1 setting (anchor_scale; effdet-inspect shows the values), which its outputs "
        "do not show"
    )


@pytest.mark.parametrize(
    ("kind", "graph", "config"),
    [
        ("graph ran", True, True),
        ("graph read", True, True),
        ("config", False, True),
        ("assumed", False, False),
        ("not recorded", False, False),
    ],
)
def test_requirements(kind: ClaimKind, graph: bool, config: bool) -> None:
    claim = Claim(kind, "")
    assert (claim.satisfies("graph"), claim.satisfies("config"), claim.satisfies(None)) == (graph, config, True)


def test_a_verification_fails_for_its_claim_alone() -> None:
    assumed = replace(PASSING, model=ASSUMED)
    assert assumed.passed
    assert not replace(assumed, required="config").passed
    assert replace(assumed, required="graph", graph=GRAPH).passed
    assert not replace(PASSING, required="graph").passed
    assert replace(PASSING, required="config").passed


def test_a_graph_that_disagrees_fails_and_proves_nothing() -> None:
    result = replace(PASSING, graph=OTHER_GRAPH)
    assert not result.passed
    assert result.claim == claim_of(MODEL["metadata"])
