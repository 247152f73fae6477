"""`pipeline.config`: what is taken, ignored and refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from converter.errors import CorruptFileError, UnsupportedSourceError
from converter.hparams.fields import config_fields
from converter.hparams.pipeline import PIPELINE_FILE, Pipeline, find_pipeline, read_pipeline
from effdet_torch.errors import EffdetError
from support.pipelines import PIPELINE, changed

TAKEN: dict[str, Any] = {
    "num_classes": 90,
    "backbone_name": "efficientnet-b0",
    "min_level": 3,
    "max_level": 7,
    "fpn_cell_repeats": 3,
    "fpn_num_filters": 64,
    "fpn_weight_method": "fastattn",
    "box_class_repeats": 3,
    "act_type": "swish",
    "anchor_scale": 4.0,
    "aspect_ratios": [1.0, 2.0, 0.5],
    "num_scales": 3,
    "image_size": 512,
    "nms_configs": {"score_thresh": 1e-8, "iou_thresh": 0.5, "max_per_class": 100, "max_output_size": 100},
}
CHANGES: dict[str, tuple[tuple[str, str], dict[str, Any]]] = {
    "classes": (("num_classes: 90", "num_classes: 3"), {"num_classes": 3}),
    "combine_method": (("num_filters: 64", "num_filters: 64 combine_method: 'sum'"), {"fpn_weight_method": "sum"}),
    "anchors": (("anchor_scale: 4.0", "anchor_scale: 3"), {"anchor_scale": 3}),
    "ratios one by one": (
        ("aspect_ratios: [1.0, 2.0, 0.5]", "aspect_ratios: 1.0 aspect_ratios: 3.0"),
        {"aspect_ratios": [1.0, 3.0]},
    ),
    "the API's own number of octaves": (("scales_per_octave: 3", ""), {"num_scales": 2}),
    "the size": (
        ("min_dimension: 512 max_dimension: 512", "min_dimension: 640 max_dimension: 640"),
        {"image_size": 640},
    ),
    "numbers as the API prints them": (
        ("epsilon: 0.001", "epsilon: 0.0010000000474974513"),
        {},
    ),
    "a threshold as the API prints it": (("score_threshold: 1e-8", "score_threshold: 9.99999993922529e-09"), {}),
    "no threshold": (
        ("score_threshold: 1e-8", ""),
        {"nms_configs": TAKEN["nms_configs"] | {"score_thresh": 1e-38}},
    ),
    "an overlap of 0": (
        ("iou_threshold: 0.5", "iou_threshold: 0"),
        {"nms_configs": TAKEN["nms_configs"] | {"iou_thresh": 1e-38}},
    ),
    "a list of one": (("num_classes: 90", "num_classes: [3]"), {"num_classes": 3}),
    "switches as words": (("true", "True"), {}),
    "switches as letters": (("add_background_class: false", "add_background_class: f"), {}),
    "switches as numbers": (("pad_to_max_dimension: true", "pad_to_max_dimension: 1"), {}),
    "a mark of the byte order": (("# EfficientDet D0", "\ufeff# EfficientDet D0"), {}),
    "another way to train": (("batch_size: 128", "batch_size: 8 unknown_to_us { x: 1 }"), {}),
}
REFUSED = {
    "another extractor": (
        ("ssd_efficientnet-b0_bifpn_keras", "ssd_resnet50_v1_fpn_keras"),
        "model.ssd.feature_extractor.type is 'ssd_resnet50_v1_fpn_keras', which is not supported",
    ),
    "another meta-architecture": (("  ssd {", "  faster_rcnn {"), "model.faster_rcnn.num_classes is not supported"),
    "another resizer": (
        (
            "keep_aspect_ratio_resizer { min_dimension: 512 max_dimension: 512 pad_to_max_dimension: true }",
            "fixed_shape_resizer { height: 512 width: 512 }",
        ),
        "model.ssd.image_resizer.fixed_shape_resizer.height is not supported for EfficientDet",
    ),
    "no padding": (
        (" pad_to_max_dimension: true", ""),
        "pad_to_max_dimension is false (by default); only true is supported",
    ),
    "another resize method": (
        ("pad_to_max_dimension: true", "pad_to_max_dimension: true resize_method: BICUBIC"),
        "resize_method is BICUBIC; only BILINEAR is supported",
    ),
    "sides of two lengths": (
        ("min_dimension: 512", "min_dimension: 300"),
        "max_dimension is 512, but model.ssd.image_resizer.keep_aspect_ratio_resizer.min_dimension is 300",
    ),
    "soft suppression": (
        ("iou_threshold: 0.5", "iou_threshold: 0.5 soft_nms_sigma: 0.5"),
        "soft_nms_sigma is 0.5; only",
    ),
    "all classes together": (
        ("iou_threshold: 0.5", "use_class_agnostic_nms: true"),
        "use_class_agnostic_nms is true; only false is supported",
    ),
    "softmax": (("score_converter: SIGMOID", "score_converter: SOFTMAX"), "score_converter is SOFTMAX; only SIGMOID"),
    "a class for the background": (
        ("add_background_class: false", ""),
        "add_background_class is true (by default); only false is supported",
    ),
    "another activation": (
        ("activation: SWISH", "activation: RELU_6"),
        "activation is 'RELU_6', which is not supported",
    ),
    "weights as they are": (
        ("num_filters: 64", "num_filters: 64 combine_method: 'weighted_sum'"),
        "combine_method is 'weighted_sum', which is not supported",
    ),
    "another epsilon": (("epsilon: 0.001", "epsilon: 0.01"), "batch_norm.epsilon is 0.01; only 0.001 is supported"),
    "heads of another width": (
        ("depth: 64", "depth: 88"),
        "depth is 88, but model.ssd.feature_extractor.bifpn.num_filters is 64; expected the same",
    ),
    "a value twice": (("num_classes: 90", "num_classes: 90 num_classes: 3"), "num_classes is given 2 times"),
    "a message twice": (("  ssd {", "  ssd { } ssd {"), "model.ssd is given 2 times; expected once"),
    "a word for a number": (("num_classes: 90", "num_classes: [{}]"), "num_classes is '{}'; expected a number"),
    "a word in the box coder": (("y_scale: 10.0", "y_scale: model5.0"), "y_scale is 'model5.0'; expected a number"),
    "a number for a word": (("activation: SWISH", "activation: 3"), "activation is '3', which is not supported"),
    "a negative number": (("num_classes: 90", "num_classes: -1"), "num_classes is '-1'; expected a number, above 0"),
    "a negative threshold": (("iou_threshold: 0.5", "iou_threshold: -1"), "'-1'; expected a number, 0 or more"),
    "no detections": (
        ("max_total_detections: 100", "max_total_detections: 0"),
        "max_total_detections is '0'; expected a number, above 0",
    ),
    "boxes of no size": (("y_scale: 10.0", "y_scale: 0"), "y_scale is '0'; expected a number, above 0"),
    "a ratio of 0": (("[1.0, 2.0, 0.5]", "[0]"), "aspect_ratios is '0'; expected a number, above 0"),
    "a switch that is off": (("use_depthwise: true", "use_depthwise: False"), "use_depthwise is false; only true"),
    "no model": ((PIPELINE, "train_config { batch_size: 1 }"), "it has no model { ... }"),
    "quantisation": (("train_config {", "graph_rewriter { x: 1 } train_config {"), "graph_rewriter.x is not supported"),
}


def read(folder: Path, text: str) -> Pipeline:
    path = folder / PIPELINE_FILE
    path.write_text(text)
    return read_pipeline(path)


def test_everything_is_taken(tmp_path: Path) -> None:
    found = read(tmp_path, PIPELINE)
    assert found.hparams == TAKEN
    assert found.box_coder == (10.0, 10.0, 5.0, 5.0)
    config_fields(found.hparams)  # all are hyperparameters, with valid values


@pytest.mark.parametrize("change", CHANGES)
def test_a_setting_counts(change: str, tmp_path: Path) -> None:
    replaced, expected = CHANGES[change]
    assert read(tmp_path, changed(replaced)).hparams == TAKEN | expected


def test_the_box_coder_counts(tmp_path: Path) -> None:
    text = changed(("y_scale: 10.0 x_scale: 10.0 height_scale: 5.0", "x_scale: 2 height_scale: 3"))
    assert read(tmp_path, text).box_coder == (10.0, 2.0, 3.0, 5.0)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_named(case: str, tmp_path: Path) -> None:
    replaced, message = REFUSED[case]
    with pytest.raises(UnsupportedSourceError) as error:
        read(tmp_path, changed(replaced))
    assert message in str(error.value)
    assert str(error.value).endswith("if the file belongs to another network, move it away")


@pytest.mark.parametrize("damage", ["model {", "\x00", "<html>", "a: \xff"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    (tmp_path / PIPELINE_FILE).write_bytes(damage.encode("latin-1"))
    with pytest.raises(CorruptFileError, match=r"is not a pipeline of the TF Object Detection API \(.*move it away"):
        read_pipeline(tmp_path / PIPELINE_FILE)


def test_the_folder_above_counts_where_there_is_none_beside(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    assert find_pipeline(folder) is None
    (tmp_path / PIPELINE_FILE).write_text(changed(("num_classes: 90", "num_classes: 3")))
    above = find_pipeline(folder)
    assert above is not None
    assert (above.hparams["num_classes"], above.origin) == (3, "pipeline.config above checkpoint/")
    assert above.notes == ("pipeline.config of the folder above checkpoint/ is used",)
    (folder / PIPELINE_FILE).write_text(PIPELINE)
    beside = find_pipeline(folder)
    assert beside is not None
    assert (beside.hparams["num_classes"], beside.origin, beside.notes) == (90, "pipeline.config", ())


@pytest.mark.parametrize(
    "count", [300, pytest.param(10_000, marks=pytest.mark.slow)], ids=["some mutations", "ten thousand mutations"]
)
def test_any_mutation_is_read_or_refused_in_one_line(count: int, tmp_path: Path) -> None:
    chance, refused = random.Random(count), 0
    words = [
        "{",
        "}",
        ":",
        "[",
        "]",
        '"',
        "'",
        "#",
        "<",
        ">",
        "1e999",
        "-1",
        "nan",
        "true",
        "model",
        "ssd",
        "\n",
        "\x7f",
    ]
    for _ in range(count):
        text = list(PIPELINE)
        for _ in range(chance.randint(1, 4)):
            start = chance.randrange(len(text))
            text[start : start + chance.choice((0, 1, 3, 40))] = chance.choice(words) * chance.choice((1, 1, 3))
        try:
            config_fields(read(tmp_path, "".join(text)).hparams)
        except EffdetError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017
    assert count / 3 < refused < count
