"""What the settings of the losses may be."""

from __future__ import annotations

from typing import Any

import pytest

from effdet_torch.errors import ConfigError
from effdet_torch.train.recipe import Recipe


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("alpha", 1.01, 1.0),
        ("gamma", -0.1, 0.0),
        ("label_smoothing", 1.0, 0.9),
        ("delta", 0.0, 1e-3),
        ("box_loss_weight", -1.0, 0.0),
        ("iou_loss", "eiou", "ciou"),
        ("iou_loss_weight", float("nan"), 0.0),
        ("ciou_gradient", "official", "true"),
        ("positives_momentum", 1.0, 0.99),
    ],
)
def test_improper_settings_are_refused(name: str, bad: Any, good: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {bad!r}; expected"):
        Recipe(**{name: bad})
    assert getattr(Recipe(**{name: good}), name) == good
