"""Values as people's tools write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from effdet_torch.data import values

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("read", "given", "expected"),
    [
        (values.number, 3, 3.0),
        (values.number, " 2.5 ", 2.5),
        *((values.number, given, None) for given in (None, True, "", "x", NAN, -INF, "nan", "inf", 10**400, [1])),
        (values.key, 7, 7),
        (values.key, 7.0, 7),
        (values.key, "007", 7),
        (values.key, " -7", -7),
        (values.key, "7.0", 7),
        (values.key, "7e3", "7e3"),
        (values.key, "7.5", "7.5"),
        (values.key, "img_7", "img_7"),
        (values.key, "--7", "--7"),
        (values.key, "1" * 5000, "1" * 5000),
        *((values.key, given, None) for given in (None, True, "", " ", 7.5, NAN, INF, [7], {})),
        *((values.flag, given, 0) for given in (0, 0.0, False, "0", "False")),
        *((values.flag, given, 1) for given in (1, True, " true ", "1")),
        *((values.flag, given, None) for given in (None, 2, "x", "", [], NAN, 0.5)),
        (values.box, [1, "2", 3.5, 4], (1.0, 2.0, 3.5, 4.0)),
        *(
            (values.box, given, None)
            for given in (None, [], [1, 2, 3], [1] * 5, "1234", {}, [1, 2, 3, NAN], [1, 2, 3, None])
        ),
    ],
)
def test_values(read: Callable[[Any], Any], given: Any, expected: Any) -> None:
    found = read(given)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((40, "30"), (40, 30)),
        ((40.0, 30), (40, 30)),
        ((0, 30), None),
        ((None, 30), None),
        ((40, -3), None),
        ((40, NAN), None),
    ],
)
def test_sizes(given: tuple[Any, Any], expected: object) -> None:
    assert values.size(*given) == expected
