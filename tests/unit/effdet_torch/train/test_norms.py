"""Batch norms of a training against torch's own, on one process and on several."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from effdet_torch.errors import ConfigError, UsageError
from effdet_torch.network.layers import ActivatedNorm
from effdet_torch.processes import Processes
from effdet_torch.train.norms import TrainingNorm, prepare_norms, restore_norms
from effdet_torch.train.recipe import OFFICIAL, RECIPES, Recipe
from support.coco_samples import small_model
from support.shared_norms import averaged_statistics, inputs, norm, run_norm, train_norm
from support.torchrun import run_processes

BIASED = Recipe(bn_variance="biased")
FROZEN = Recipe(freeze_bn=True)
STATISTICS = ("running_mean", "running_var")


def trained(
    kind: str, recipe: Recipe, features: torch.Tensor, gradient: torch.Tensor, dtype: torch.dtype = torch.float64
) -> dict[str, Any]:
    made = nn.Sequential(norm(kind)).to(dtype)
    prepare_norms(made, recipe)
    return run_norm(made[0], features, gradient)


def assert_close(found: dict[str, Any], expected: dict[str, Any], leaving_out: tuple[str, ...] = ()) -> None:
    assert found.keys() == expected.keys()
    for name in found.keys() - set(leaving_out):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", ["plain", "activated"])
def test_biased_variance_moves_the_statistics_by_less_and_changes_nothing_else(kind: str) -> None:
    features, gradient = inputs(0)
    values = features.numel() // 5
    found, expected = trained(kind, BIASED, features, gradient), run_norm(norm(kind), features, gradient)
    assert_close(found, expected, ("running_var",))
    kept = 0.99 * norm(kind).running_var.numpy()
    ratio = (expected["running_var"] - kept) / (found["running_var"] - kept)
    np.testing.assert_allclose(ratio, values / (values - 1), rtol=1e-10)
    assert values / (values - 1) > 1.04  # the two variances are far enough apart to be told from each other


def test_16_bit_features_have_32_bit_statistics() -> None:
    """As with --amp on a CPU, whose kernel would return statistics of 8 digits in base 2."""
    features, gradient = (tensor.bfloat16() for tensor in inputs(0))
    found = trained("plain", BIASED, features, gradient, torch.float32)
    expected = trained("plain", BIASED, features.float(), gradient.float(), torch.float32)
    for name in STATISTICS:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, err_msg=name)
    for name in found.keys() - set(STATISTICS):
        np.testing.assert_allclose(found[name], expected[name], atol=0.02 * np.abs(expected[name]).max(), err_msg=name)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_the_derivatives(memory_format: torch.memory_format) -> None:
    made = nn.Sequential(norm("activated"))
    prepare_norms(made, BIASED)
    features = inputs(0)[0].contiguous(memory_format=memory_format).requires_grad_()
    assert torch.autograd.gradcheck(made, features)
    assert torch.autograd.gradcheck(
        lambda weight, bias: torch.func.functional_call(made, {"0.weight": weight, "0.bias": bias}, features),
        (made[0].weight, made[0].bias),
    )


@pytest.mark.parametrize(
    ("count", "kind", "variance"), [(2, "plain", "unbiased"), (3, "activated", "unbiased"), (2, "activated", "biased")]
)
def test_several_processes_normalise_as_one_with_all_images(count: int, kind: str, variance: str) -> None:
    """Against torch on all values at once: as (1, C, values, 1), because the images have other sizes."""
    parts = [inputs(rank) for rank in range(count)]
    joined = [torch.cat([part[n].transpose(0, 1).reshape(5, -1) for part in parts], 1)[None, ..., None] for n in (0, 1)]
    recipe = Recipe(bn_variance=variance)  # type: ignore[arg-type]
    expected = trained(kind, recipe, *joined)
    found = run_processes(count, train_norm, kind, variance, True)
    for name in ("outputs", "features"):
        values = np.concatenate([each[name].swapaxes(0, 1).reshape(5, -1) for each in found], 1)
        np.testing.assert_allclose(values, expected[name][0, ..., 0], rtol=1e-10, atol=1e-12, err_msg=name)
    for name in ("weight", "bias"):
        np.testing.assert_allclose(sum(each[name] for each in found), expected[name], rtol=1e-10, atol=1e-12)
    for name in STATISTICS:
        np.testing.assert_allclose(found[0][name], expected[name], rtol=1e-12)
        assert all((each[name] == found[0][name]).all() for each in found)  # to the bit, or processes drift apart


def test_without_synchronisation_each_process_sees_its_own_images() -> None:
    """Negative control: the same comparison finds the difference."""
    found = run_processes(2, train_norm, "plain", "unbiased", False)
    for each, rank in zip(found, (0, 1), strict=True):
        assert_close(each, run_norm(norm("plain"), *inputs(rank)))
    assert np.abs(found[0]["running_mean"] - found[1]["running_mean"]).min() > 0.1


@pytest.mark.parametrize("kind", ["plain", "activated"])
def test_frozen_norms_keep_their_statistics_while_gamma_and_beta_train(kind: str) -> None:
    features, gradient = inputs(0)
    found, expected = trained(kind, FROZEN, features, gradient), run_norm(norm(kind).eval(), features, gradient)
    assert_close(found, expected)
    assert np.abs(found["weight"]).min() > 0
    moving = run_norm(norm(kind), features, gradient)
    assert (moving["running_mean"] != found["running_mean"]).all()  # negative control


@pytest.mark.parametrize("recipe", [BIASED, FROZEN, Recipe(sync_bn=True, bn_variance="biased")])
def test_a_model_keeps_its_keys_and_outputs_and_gets_its_norms_back(recipe: Recipe) -> None:
    model = small_model()
    images, before = torch.randn(2, 3, 64, 64), [type(module) for module in model.modules()]
    keys, expected = list(model.state_dict()), model(images)
    prepare_norms(model, recipe)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(isinstance(module, TrainingNorm) for module in norms)
    for same in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert list(same.state_dict()) == keys
        torch.testing.assert_close(same(images), expected, rtol=0, atol=0)
    restore_norms(model)
    assert [type(module) for module in model.modules()] == before
    torch.testing.assert_close(model(images), expected, rtol=0, atol=0)


def test_preparing_again_replaces_the_rule() -> None:
    model = nn.Sequential(norm("plain"), norm("activated"))
    for recipe, kinds in ((FROZEN, TrainingNorm), (Recipe(), nn.BatchNorm2d)):
        prepare_norms(model, recipe)
        assert all(isinstance(module, kinds) for module in model)
    assert [type(module) for module in model] == [nn.BatchNorm2d, ActivatedNorm]  # torch's own code, where it will do


def test_norms_without_their_activations_are_refused() -> None:
    """What `convert_sync_batchnorm` leaves: it replaces `ActivatedNorm` by a class without the activation."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(norm("activated")))
    with pytest.raises(UsageError, match="0 is a SyncBatchNorm; expected a batch norm of an EfficientDet"):
        prepare_norms(model, Recipe())


def test_one_value_per_channel_is_refused() -> None:
    made = nn.Sequential(norm("plain"))
    prepare_norms(made, BIASED)
    with pytest.raises(ConfigError, match="one value per channel"):
        made(torch.ones(1, 5, 1, 1, dtype=torch.float64))
    made(torch.ones(2, 5, 1, 1, dtype=torch.float64))


def test_statistics_of_the_processes_are_averaged() -> None:
    assert run_processes(2, averaged_statistics) == [[[1.0, 2.0], [1.5, 3.0]], [[2.0, 4.0], [1.5, 3.0]]]


def test_the_rule_holds_who_takes_part() -> None:
    made = nn.Sequential(norm("plain"))
    prepare_norms(made, Recipe(sync_bn=True), Processes(1, 4))
    assert made[0].rule.processes == Processes(1, 4)
    prepare_norms(made, Recipe(), Processes(1, 4))
    assert type(made[0]) is nn.BatchNorm2d


@pytest.mark.parametrize(
    ("recipe", "biased"),
    [
        (OFFICIAL, False),
        (replace(OFFICIAL, sync_bn=True), True),
        (replace(RECIPES["default"], sync_bn=True), False),
        (replace(OFFICIAL, bn_variance="biased"), True),
    ],
)
def test_the_official_variance_is_that_of_the_class_that_the_official_trainer_takes(
    recipe: Recipe, biased: bool
) -> None:
    assert recipe.is_biased == biased
