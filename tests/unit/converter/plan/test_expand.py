"""From a table and a config to the plan, and the mistakes in a table that only show then."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from converter.errors import MappingError
from converter.plan.axes import detector_axes, detector_constants
from converter.plan.expand import Plan, expand
from converter.plan.grammar import parse_table
from effdet_torch.config import get_config
from support.sources import plan_of, small_config

BACKBONE_TEXT, DETECTOR_TEXT = (
    (resources.files("mappings") / f"{name}.yaml").read_text() for name in ("efficientnet", "efficientdet")
)


def test_biases_are_folded_or_kept() -> None:
    folded, kept = plan_of("d0"), plan_of(get_config("d0", redundant_bias=True))
    key, bias = "class_net.bn_rep.2.4.bn.running_mean", "class_net/class-2/bias"
    mean = "class_net/class-2-bn-7/moving_mean"
    assert (folded.targets[key].op_name, folded.targets[key].inputs) == ("fold_bias", (mean, bias))
    assert (kept.targets[key].op_name, kept.targets[key].inputs) == ("keep", (mean,))
    assert kept.targets["class_net.conv_rep.2.conv_pw.bias"].sources == (bias,)
    assert folded.targets["backbone.bn1.running_mean"].op_name == "keep"  # no bias in front of it
    extra = kept.targets.keys() - folded.targets.keys()
    assert len(extra) == 36
    assert all(name.endswith(".bias") for name in extra)
    assert folded.targets.keys() < kept.targets.keys()
    assert folded.variables == kept.variables


# From the description of the official model, one layer of every row: PyTorch module -> TensorFlow scope, leaves.
BN = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
CONV, DEPTHWISE = {"weight": "kernel"}, {"weight": "depthwise_kernel"}
CONV_BIAS = CONV | {"bias": "bias"}
SEPARABLE = {"conv_dw.weight": "depthwise_kernel", "conv_pw.weight": "pointwise_kernel", "conv_pw.bias": "bias"}
B0 = "efficientnet-b0"
PAIRS: dict[str, tuple[str, dict[str, str]]] = {
    "backbone.conv_stem": (f"{B0}/stem/conv2d", CONV),
    "backbone.bn1": (f"{B0}/stem/tpu_batch_normalization", BN),
    # First stage, no expansion: conv2d projects.
    "backbone.blocks.0.0.conv_dw": (f"{B0}/blocks_0/depthwise_conv2d", DEPTHWISE),
    "backbone.blocks.0.0.bn1": (f"{B0}/blocks_0/tpu_batch_normalization", BN),
    "backbone.blocks.0.0.se.conv_reduce": (f"{B0}/blocks_0/se/conv2d", CONV_BIAS),
    "backbone.blocks.0.0.se.conv_expand": (f"{B0}/blocks_0/se/conv2d_1", CONV_BIAS),
    "backbone.blocks.0.0.conv_pw": (f"{B0}/blocks_0/conv2d", CONV),
    "backbone.blocks.0.0.bn2": (f"{B0}/blocks_0/tpu_batch_normalization_1", BN),
    # Third block of the fourth stage, the eighth in all: conv2d expands, conv2d_1 projects.
    "backbone.blocks.3.2.conv_pw": (f"{B0}/blocks_7/conv2d", CONV),
    "backbone.blocks.3.2.bn1": (f"{B0}/blocks_7/tpu_batch_normalization", BN),
    "backbone.blocks.3.2.conv_dw": (f"{B0}/blocks_7/depthwise_conv2d", DEPTHWISE),
    "backbone.blocks.3.2.bn2": (f"{B0}/blocks_7/tpu_batch_normalization_1", BN),
    "backbone.blocks.3.2.se.conv_reduce": (f"{B0}/blocks_7/se/conv2d", CONV_BIAS),
    "backbone.blocks.3.2.se.conv_expand": (f"{B0}/blocks_7/se/conv2d_1", CONV_BIAS),
    "backbone.blocks.3.2.conv_pwl": (f"{B0}/blocks_7/conv2d_1", CONV),
    "backbone.blocks.3.2.bn3": (f"{B0}/blocks_7/tpu_batch_normalization_2", BN),
    "fpn.resample.3.conv.conv": ("resample_p6/conv2d", CONV_BIAS),
    "fpn.resample.3.conv.bn": ("resample_p6/bn", BN),
    # Node 5 (P5 on the way up) takes P5 itself, which is feature 2, as its first input; its own output is feature 10.
    "fpn.cell.0.fnode.5.combine.resample.2.conv.conv": ("fpn_cells/cell_0/fnode5/resample_0_2_10/conv2d", CONV_BIAS),
    "fpn.cell.0.fnode.5.combine.resample.2.conv.bn": ("fpn_cells/cell_0/fnode5/resample_0_2_10/bn", BN),
    "fpn.cell.2.fnode.7.after_combine.conv": ("fpn_cells/cell_2/fnode7/op_after_combine12/conv", SEPARABLE),
    "fpn.cell.2.fnode.7.after_combine.conv.bn": ("fpn_cells/cell_2/fnode7/op_after_combine12/bn", BN),
    "class_net.conv_rep.1": ("class_net/class-1", SEPARABLE),
    "box_net.bn_rep.2.4.bn": ("box_net/box-2-bn-7", BN),
    "class_net.predict": ("class_net/class-predict", SEPARABLE),
}
FUSIONS = {
    "fpn.cell.0.fnode.0.combine.edge_weights": "fpn_cells/cell_0/fnode0/WSM fpn_cells/cell_0/fnode0/WSM_1",
    "fpn.cell.1.fnode.6.combine.edge_weights": (
        "fpn_cells/cell_1/fnode6/WSM fpn_cells/cell_1/fnode6/WSM_1 fpn_cells/cell_1/fnode6/WSM_2"
    ),
}
OUTPUTS = {
    "backbone.blocks.3.2": f"{B0}/blocks_7",
    "backbone.blocks.3.2.se": f"{B0}/blocks_7/se",
    "fpn.resample.4": "resample_p7",
    "fpn.cell.1.fnode.6": "fpn_cells/cell_1/fnode6",
}


def test_rows_pair_the_layers_that_belong_together() -> None:
    """Shapes cannot show this: for example, the first two batch norms of a block have the same."""
    plan = plan_of(get_config("d0", redundant_bias=True))
    expected = {key: tuple(names.split()) for key, names in FUSIONS.items()}
    for module, (scope, leaves) in PAIRS.items():
        expected |= {f"{module}.{suffix}": (f"{scope}/{leaf}",) for suffix, leaf in leaves.items()}
    assert {key: plan.targets[key].sources for key in expected} == expected
    # Every row that has variables is among them.
    covered = {plan.targets[key].layer.row.where for key in expected}
    assert covered == {layer.row.where for layer in plan.layers if plan.table.kinds[layer.kind]}


def test_rows_without_variables_pair_outputs() -> None:
    layers = [(layer.torch, layer.tf) for layer in plan_of("d0").layers]
    assert all(layers.count(pair) == 1 for pair in OUTPUTS.items())


@pytest.mark.parametrize("kept", [False, True])
def test_layers_pair_every_scope_with_a_module(kept: bool) -> None:
    plan = plan_of(small_config(redundant_bias=kept))
    assert all(entry.target is None or entry.target.startswith(entry.layer.torch) for entry in plan.entries)
    assert all(name.startswith(entry.layer.tf) for entry in plan.entries for name in entry.sources)
    assert {id(entry.layer) for entry in plan.entries} <= {id(layer) for layer in plan.layers}
    assert plan.layers[0].indices["backbone"] == "efficientnet-b0"


# What is wrong -> (old text of the table, new text, line that the error names, words of the error).
STEM, BN1 = "[conv2d,                  conv_stem", "[tpu_batch_normalization, bn1,       batch"
SCOPE = '"{backbone}/stem"'
MISTAKES: dict[str, tuple[str, str, str, str]] = {
    "axis": (
        "for_each: [node]",
        "for_each: [knot]",
        "- name: BiFPN fusion weights",
        "axis 'knot' does not exist; known",
    ),
    "placeholder": (SCOPE, '"{backbnoe}/stem"', STEM, "placeholder 'backbnoe' in '{backbnoe}/stem/conv2d'"),
    "placeholder of an axis": ('torch: ""\n', 'torch: "{flat}"\n', STEM, "placeholder 'flat' in '{flat}.conv_stem'"),
    "positional placeholder": (SCOPE, '"{}/stem"', STEM, "is not a valid template"),
    "attribute of a placeholder": (SCOPE, '"{backbone.x}/stem"', STEM, "is not a valid template"),
    "open brace": (SCOPE, '"{backbone/stem"', STEM, "is not a valid template"),
    "quantity": (
        "stem_channels",
        "stem_chanels",
        STEM,
        "'stem_chanels' is an unknown quantity here; known are activates_last, backbone",
    ),
    "quantity of an axis": ("in: 3, out: stem", "in: flat, out: stem", STEM, "'flat' is an unknown quantity here"),
    "text as a size": ("stem_channels", "backbone", STEM, "'backbone' is 'efficientnet-b0', which is not a size"),
    "condition as a size": ("in: p5_channels", "in: p6_needs_conv", "k: 1, in: p6", "is True, which is not a size"),
    "condition of a group": ("p6_needs_conv", "p6_needs_cnov", "- name: P6 from P5", "'p6_needs_cnov' is an unknown"),
    "condition of a row": ("when: squeeze_excite_channels}", "when: squeeze}", "squeeze}", "'squeeze' is an unknown"),
    "module twice": (
        "bn1,       batch_norm",
        "conv_stem, batch_norm",
        "tpu_batch_normalization",
        "conv_stem.weight is al",
    ),
    "scope twice": (
        "[tpu_batch_normalization_1, bn2,",
        "[tpu_batch_normalization, bn2,",
        "",
        "gamma is already defined by",
    ),
    "source twice": (
        "bias:   {from: bias, op: keep",
        "bias:   {from: kernel, op: keep",
        "se/conv2d,",
        "blocks_0/se/conv2d/kernel is already defined by",
    ),
    "count is no size": (
        "{n: num_inputs, when",
        "{n: has_scalar_weights, when",
        "has_scalar_weights, when",
        "is True, which is",
    ),
    "no initial value": (
        ", bias: predict_bias}",
        "}",
        "separable_bias, {k: 3",
        "'absent' has no initial value for bias",
    ),
    "unknown initial value": ("bias: predict_bias}", "bias: zeros}", "separable_bias, {k: 3", "'zeros' is an unknown"),
    "bias lost": (
        ", folds: conv2d/bias, when: resampling_has_bn}",
        ", when: resampling_has_bn}",
        "k: 1, in: p5",
        "resample_p6/conv2d/bias is not folded by any batch norm",
    ),
    "fold of a wrong name": ("folds: conv2d/bias", "folds: conv2d/kernel", "", "resample_p6/conv2d/"),
    # The stem has no bias: without the check, converting would end with a KeyError in the middle of the file.
    "fold without a bias": (
        "{out: stem_channels}]",
        "{out: stem_channels, folds: conv2d/bias}]",
        BN1,
        "efficientnet-b0/stem/conv2d/bias is not a bias in front of a batch norm",
    ),
}


def expand_text(text: str) -> Plan:
    config = get_config("d0")
    return expand(parse_table(text.encode(), "mine"), config, detector_axes(config), detector_constants(config))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_refuses_with_file_and_line(mistake: str) -> None:
    old, new, line, words = MISTAKES[mistake]
    text = next(text for text in (BACKBONE_TEXT, DETECTOR_TEXT) if old in text).replace(old, new, 1)
    with pytest.raises(MappingError) as caught:
        expand_text(text)
    named = re.match(r"mappings/mine\.yaml, line (\d+): (.*)", str(caught.value))
    assert named is not None, str(caught.value)
    assert line in text.splitlines()[int(named[1]) - 1]
    assert words in named[2]
    if other := re.search(r"already defined by mappings/mine.yaml, line (\d+)$", named[2]):
        assert 0 < int(other[1]) <= int(named[1])


def test_the_table_without_a_mistake_is_valid() -> None:
    """Negative control of the test above."""
    assert expand_text(DETECTOR_TEXT).variables == plan_of("d0").variables
    backbone = expand_text(BACKBONE_TEXT).variables
    assert backbone == {k: v for k, v in plan_of("d0").variables.items() if k.startswith("efficientnet-b0/")}
