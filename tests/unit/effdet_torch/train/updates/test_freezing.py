from __future__ import annotations

import pytest
from torch import nn

from effdet_torch.errors import ConfigError
from effdet_torch.train.updates.freezing import freeze


def model() -> nn.Module:
    net = nn.Module()
    net.backbone, net.head = nn.Linear(2, 2), nn.Linear(2, 2)
    net.head.backbone = nn.Linear(2, 2)
    return net


def test_a_pattern_matches_at_the_start_of_names() -> None:
    net = model()
    assert freeze(net, "backbone") == ["backbone.weight", "backbone.bias"]
    assert [name for name, parameter in net.named_parameters() if not parameter.requires_grad] == [
        "backbone.weight",
        "backbone.bias",
    ]
    assert freeze(net, None) == []
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", r"--freeze '\(' is not a regular expression"),
        ("efficientnet", "matches no parameter; their names start with backbone, head"),
        ("", "matches all 6 parameters"),
    ],
)
def test_refused(pattern: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        freeze(model(), pattern)
