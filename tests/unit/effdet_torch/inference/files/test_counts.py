"""Counts in words."""

from __future__ import annotations

import pytest

from effdet_torch.inference.files.counts import WORDS, counted
from effdet_torch.inference.labels import COCO_NAMES

# Written down by hand, all 80 of them in the order of their ids.
PLURALS = """
people, bicycles, cars, motorcycles, airplanes, buses, trains, trucks, boats, traffic lights, fire hydrants, stop signs,
parking meters, benches, birds, cats, dogs, horses, sheep, cows, elephants, bears, zebras, giraffes, backpacks,
umbrellas, handbags, ties, suitcases, frisbees, pairs of skis, snowboards, sports balls, kites, baseball bats, baseball
gloves, skateboards, surfboards, tennis rackets, bottles, wine glasses, cups, forks, knives, spoons, bowls, bananas,
apples, sandwiches, oranges, broccoli, carrots, hot dogs, pizzas, donuts, cakes, chairs, couches, potted plants, beds,
dining tables, toilets, tvs, laptops, mice, remotes, keyboards, cell phones, microwaves, ovens, toasters, sinks,
refrigerators, books, clocks, vases, pairs of scissors, teddy bears, hair driers, toothbrushes
"""


def test_every_name_of_coco() -> None:
    expected = [word.strip() for word in PLURALS.replace("\n", " ").split(",")]
    assert [WORDS[name][1] for name in COCO_NAMES.values()] == expected
    assert len(expected) == 80
    assert {name for name, (one, _) in WORDS.items() if one != name} == {"skis", "scissors"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "no detections"),
        (["cat", "orange", "cat"], "2 cats, 1 orange"),
        (["person"], "1 person"),
        (["skis", "skis", "scissors"], "2 pairs of skis, 1 pair of scissors"),
        (["helmet_off", "class 7", "class 7", "Cat"], "1 x helmet_off, 2 x class 7, 1 x Cat"),
    ],
)
def test_lines(names: list[str], expected: str) -> None:
    assert counted(names) == expected
