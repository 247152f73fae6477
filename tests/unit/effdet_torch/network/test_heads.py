"""The heads: shared convolutions, batch norms per repeat and level, channel order, focal prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.network.heads import Head, Residual, create_box_head, create_class_head

CONFIG = get_config("d0", fpn_channels=8, head_repeats=2, num_classes=5)


def features() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 8, size, size + 1) for size in (8, 4, 2, 1, 1)]


@pytest.mark.parametrize(("create", "outputs"), [(create_class_head, 5), (create_box_head, 4)])
def test_outputs_have_anchor_major_channels_on_every_level(
    create: Callable[[EfficientDetConfig], Head], outputs: int
) -> None:
    head = create(CONFIG).eval()
    given = features()
    found = head(given)
    assert [tuple(level.shape) for level in found] == [(2, 9 * outputs, *level.shape[2:]) for level in given]
    assert len(given) == 5
    bias = head.predict.conv_pw.bias
    assert bias is not None
    # The prior probability of every class, and no shift of any box.
    probability = 0.01 if create is create_class_head else 0.5
    torch.testing.assert_close(bias.sigmoid(), torch.full((9 * outputs,), probability))


def test_a_level_is_convolved_by_all_and_normalised_by_its_own() -> None:
    head: Any = create_box_head(CONFIG).eval()
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    for name, statistic in head.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(statistic)
    given = features()
    found = head(given)
    for level_index, level_features in enumerate(given):
        expected = level_features
        for conv, norms in zip(head.conv_rep, head.bn_rep, strict=True):
            bn = norms[level_index].bn
            expected = nn.functional.silu(
                nn.functional.batch_norm(conv(expected), bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=1e-3)
            )
        torch.testing.assert_close(found[level_index], head.predict(expected))
    head.bn_rep[1][3].bn.bias.data += 1
    changed = [not torch.equal(a, b) for a, b in zip(head(given), found, strict=True)]
    assert changed == [False, False, False, True, False]


@pytest.mark.parametrize(("variant", "activation"), [("d0", nn.SiLU), ("lite0", nn.ReLU6)])
@pytest.mark.parametrize("redundant_bias", [False, True])
def test_the_config_decides_activation_and_biases_of_the_repeats(
    variant: str, activation: type[nn.Module], redundant_bias: bool
) -> None:
    head: Any = create_class_head(get_config(variant, redundant_bias=redundant_bias))
    assert {type(norm.act) for norms in head.bn_rep for norm in norms} == {activation}
    assert all((conv.conv_pw.bias is not None) == redundant_bias for conv in head.conv_rep)
    assert head.predict.conv_pw.bias is not None


def test_residual_repeats_add_their_input_at_inference_too() -> None:
    """From the second repeat on, after the activation; the other repeats and the parameters stay as they are."""
    torch.manual_seed(0)
    config = get_config("d0", fpn_channels=8, head_repeats=3, max_level=5)
    plain: Any
    residual: Any
    plain, residual = (create_box_head(replace(config, survival_prob=p)).eval() for p in (0.0, 0.8))
    residual.load_state_dict(plain.state_dict())
    given = [torch.randn(2, 8, side, side) for side in (4, 2, 1)]
    expected = given
    for repeat in range(3):
        convolved = [plain.conv_rep[repeat](level) for level in expected]
        outputs = plain.bn_rep[repeat](convolved)
        expected = [new + old if repeat else new for new, old in zip(outputs, expected, strict=True)]
    for found, level in zip(residual(given), expected, strict=True):
        torch.testing.assert_close(found, plain.predict(level))
    assert not torch.allclose(residual(given)[0], plain(given)[0])


def test_residual_repeats_are_dropped_whole_in_training() -> None:
    residual = Residual(0.5).train()
    torch.manual_seed(0)
    output, given = torch.ones(64, 3, 2, 2), torch.zeros(64, 3, 2, 2)
    kept = residual(output, given)[:, 0, 0, 0]
    assert set(kept.tolist()) == {0.0, 2.0}  # scaled by 1 / survival_prob, image by image
    assert torch.equal(residual.eval()(output, given), output)
