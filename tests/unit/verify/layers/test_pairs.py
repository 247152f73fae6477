"""Which layers are compared: all rows of a table or an error, and what a batch norm must give."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from converter.identify.families import DETECTOR, OBJECT_DETECTION_API
from converter.plan.expand import Plan
from converter.plan.grammar import load_table
from support.sources import plan_of, small_config
from support.tables import edit_tables, rename_kind
from verify.errors import ParityError
from verify.layers.kinds import COMPARED, SHOWN_BY
from verify.layers.pairs import layer_pairs, uncompared
from verify.results.verification import LayerResult, Measures

CONFIG = small_config()
OTHERS = (
    CONFIG,
    small_config(fusion="channel_attn", survival_prob=0.8, head_repeats=2),
    small_config(conv_bn_act_pattern=True),
    small_config(heads=("segmentation",)),
)
HEAD = "class_net.bn_rep.0.0.bn"


def plans() -> Iterator[Plan]:
    """Plans that together have every kind of every table."""
    yield from map(DETECTOR.plan, OTHERS)
    yield OBJECT_DETECTION_API.plan(CONFIG)


@pytest.fixture(autouse=True)
def _own_tables() -> Iterator[None]:
    yield
    load_table.cache_clear()


@pytest.mark.parametrize("kind", [*COMPARED, *SHOWN_BY])
def test_a_renamed_kind_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    edit_tables(monkeypatch, tmp_path / "mappings", rename_kind(kind))
    plan = next(plan for plan in plans() if any("renamed" in layer.kind for layer in plan.layers))
    first = next(layer for layer in plan.layers if "renamed" in layer.kind)
    # Fusion weights are shown by `combine`: without it, they are refused as well.
    words = (
        rf"yaml, line \d+: no comparison covers the kind '(renamed_{kind}|(channel_)?fusion)'.*verify/layers/kinds.py"
    )
    with pytest.raises(ParityError, match=words) as caught:
        layer_pairs(plan)
    if kind != "combine":
        assert str(caught.value).startswith(f"{first.row.where}: ")
        assert re.search(rf"first layer {re.escape(first.tf)}; \d+ variables", str(caught.value))


def test_every_kind_of_the_tables_is_known_and_used() -> None:
    assert {layer.kind for plan in plans() for layer in plan.layers} == {*COMPARED, *SHOWN_BY}


def test_completeness_counts_the_rows_of_the_plan() -> None:
    """Not the pairs: a row that they lack is missed, too."""
    plan = plan_of(CONFIG)
    measures = Measures(0, 0, 0, 1, (0,), 0, 0)
    results = [
        LayerResult(
            order, pair.layer.tf, pair.module, pair.layer.kind, pair.level, "isolated", "float64", (), measures, 0
        )
        for order, pair in enumerate(layer_pairs(plan))
    ]
    assert uncompared(plan, results) == []
    predict = [result for result in results if (result.tf, result.level) != ("box_net/box-predict", 4)]
    assert uncompared(plan, predict) == ["box_net/box-predict (P4)"]
    fuse = "fpn_cells/cell_0/fnode2"  # the sum shows the fusion weights, whose scope is the node's
    assert uncompared(plan, [result for result in results if result.tf != f"{fuse}/fuse"]) == [fuse, f"{fuse}/fuse"]
    more = replace(plan, layers=(*plan.layers, replace(plan.layers[0], tf="new/conv2d")))
    assert uncompared(more, results) == ["new/conv2d"]


def test_what_a_batch_norm_must_give_follows_from_the_plan() -> None:
    """A module that lacks its activation is compared with TensorFlow's activation all the same."""
    norms = {pair.layer.torch: pair for pair in layer_pairs(plan_of(CONFIG)) if pair.layer.kind == "batch_norm"}
    activated = {name for name, pair in norms.items() if pair.activated}
    assert "backbone.bn1" in activated
    assert {f"backbone.blocks.0.0.{norm}" for norm in ("bn1", "bn2")} & activated == {"backbone.blocks.0.0.bn1"}
    blocks = {f"backbone.blocks.1.0.{norm}" for norm in ("bn1", "bn2", "bn3")}
    assert blocks & activated == blocks - {"backbone.blocks.1.0.bn3"}
    assert not any(name.startswith("fpn") for name in activated)
    assert {name for name in norms if "_net." in name} <= activated
    assert norms[HEAD].module == norms[HEAD].alone == HEAD.removesuffix(".bn")
