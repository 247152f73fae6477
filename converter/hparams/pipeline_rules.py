"""The settings of a `pipeline.config` of the TF Object Detection API: what becomes of each.

Source: the API's `ssd.proto` and the messages that it uses, with their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

BACKBONE = {f"ssd_efficientnet-b{number}_bifpn_keras": f"efficientnet-b{number}" for number in range(8)}
ACTIVATION = {"SWISH": "swish"}  # the backbone's has no setting
FUSION = {"fast_attention": "fastattn", "sum": "sum"}
LEAST = 1e-38  # of thresholds: as good as 0, which in nms_configs stands for the default


class Taken(NamedTuple):
    """A setting that counts.

    Attributes:
        name: of the hyperparameter, with dots.
        default: the API's own; None where it has none, and the setting may be absent.
        words: for a setting that is a word or text, {supported one: value of the hyperparameter}.
        least: of a number, what a smaller one becomes; 0: the number must be above 0.
        is_list: whether it can stand several times.
    """

    name: str
    default: Any = None
    words: Mapping[str, str] = MappingProxyType({})
    least: float = 0
    is_list: bool = False


class Only(NamedTuple):
    """A setting of which only some values are supported.

    Attributes:
        values: the supported ones.
        default: the API's own.
    """

    values: tuple[Any, ...]
    default: Any


class Ignored(NamedTuple):
    """A setting, or a message with all of its settings, without effect on a trained network."""

    reason: str


Rule = Taken | Only | Ignored
TRAINING = Ignored("training only")
OFF, ON = Only(("false",), "false"), Only(("true",), "true")
_SSD, _NMS = "model.ssd.", "model.ssd.post_processing.batch_non_max_suppression."
_ANCHORS, _CODER = (
    "model.ssd.anchor_generator.multiscale_anchor_generator.",
    "model.ssd.box_coder.faster_rcnn_box_coder.",
)
_RESIZER, _BIFPN = "model.ssd.image_resizer.keep_aspect_ratio_resizer.", "model.ssd.feature_extractor.bifpn."
_HEAD, _EXTRACTOR = "model.ssd.box_predictor.weight_shared_convolutional_box_predictor.", "model.ssd.feature_extractor."
_CONVOLUTIONS: Mapping[str, Rule] = {
    "activation": Taken("act_type", "RELU", ACTIVATION),
    "batch_norm.epsilon": Only((0.001,), 0.001),
    "batch_norm.scale": ON,
    "batch_norm.center": Only(("true",), "true"),
    "batch_norm.decay": TRAINING,
    "batch_norm.train": TRAINING,
    "regularizer": TRAINING,
    "initializer": TRAINING,
    "regularize_depthwise": TRAINING,
    "force_use_bias": ON,
    "op": Only(("CONV",), "CONV"),
}
# Path of a setting -> what becomes of it; of a message that is ignored, the path stands for everything in it.
RULES: Mapping[str, Rule] = {
    f"{_SSD}num_classes": Taken("num_classes"),
    f"{_SSD}add_background_class": Only(("false",), "true"),
    f"{_SSD}explicit_background_class": OFF,
    f"{_EXTRACTOR}type": Taken("backbone_name", words=BACKBONE),
    f"{_EXTRACTOR}depth_multiplier": Only((1,), 1),
    f"{_EXTRACTOR}min_depth": Ignored("below the channels of every BiFPN"),
    f"{_EXTRACTOR}pad_to_multiple": Only((1,), 1),
    f"{_EXTRACTOR}use_explicit_padding": OFF,
    f"{_EXTRACTOR}use_depthwise": OFF,
    f"{_EXTRACTOR}override_base_feature_extractor_hyperparams": TRAINING,
    f"{_EXTRACTOR}num_layers": Ignored("without effect on a BiFPN"),
    f"{_EXTRACTOR}replace_preprocessor_with_placeholder": OFF,
    f"{_BIFPN}min_level": Taken("min_level", 3),
    f"{_BIFPN}max_level": Taken("max_level", 7),
    f"{_BIFPN}num_iterations": Taken("fpn_cell_repeats"),
    f"{_BIFPN}num_filters": Taken("fpn_num_filters"),
    f"{_BIFPN}combine_method": Taken("fpn_weight_method", "fast_attention", FUSION),
    f"{_HEAD}depth": Taken("fpn_num_filters"),
    f"{_HEAD}num_layers_before_predictor": Taken("box_class_repeats"),
    f"{_HEAD}kernel_size": Only((3,), 3),
    f"{_HEAD}box_code_size": Only((4,), 4),
    f"{_HEAD}use_depthwise": ON,
    f"{_HEAD}share_prediction_tower": OFF,
    f"{_HEAD}apply_conv_hyperparams_pointwise": TRAINING,
    f"{_HEAD}apply_conv_hyperparams_to_heads": TRAINING,
    f"{_HEAD}class_prediction_bias_init": TRAINING,
    f"{_HEAD}use_dropout": TRAINING,
    f"{_HEAD}dropout_keep_probability": TRAINING,
    f"{_HEAD}score_converter": Only(("IDENTITY",), "IDENTITY"),
    **{f"{_EXTRACTOR}conv_hyperparams.{name}": rule for name, rule in _CONVOLUTIONS.items()},
    **{f"{_HEAD}conv_hyperparams.{name}": rule for name, rule in _CONVOLUTIONS.items()},
    f"{_CODER}y_scale": Taken("box_coder.0", 10.0),
    f"{_CODER}x_scale": Taken("box_coder.1", 10.0),
    f"{_CODER}height_scale": Taken("box_coder.2", 5.0),
    f"{_CODER}width_scale": Taken("box_coder.3", 5.0),
    f"{_ANCHORS}min_level": Taken("min_level", 3),
    f"{_ANCHORS}max_level": Taken("max_level", 7),
    f"{_ANCHORS}anchor_scale": Taken("anchor_scale", 4.0),
    f"{_ANCHORS}aspect_ratios": Taken("aspect_ratios", is_list=True),
    f"{_ANCHORS}scales_per_octave": Taken("num_scales", 2),
    f"{_ANCHORS}normalize_coordinates": ON,
    f"{_RESIZER}min_dimension": Taken("image_size", 600),
    f"{_RESIZER}max_dimension": Taken("image_size", 1024),
    f"{_RESIZER}pad_to_max_dimension": Only(("true",), "false"),
    f"{_RESIZER}resize_method": Only(("BILINEAR",), "BILINEAR"),
    f"{_RESIZER}convert_to_grayscale": OFF,
    f"{_RESIZER}per_channel_pad_value": Only((0,), 0),
    f"{_NMS}score_threshold": Taken("nms_configs.score_thresh", 0.0, least=LEAST),
    f"{_NMS}iou_threshold": Taken("nms_configs.iou_thresh", 0.6, least=LEAST),
    f"{_NMS}max_detections_per_class": Taken("nms_configs.max_per_class", 100),
    f"{_NMS}max_total_detections": Taken("nms_configs.max_output_size", 100),
    f"{_NMS}soft_nms_sigma": Only((0,), 0),
    f"{_NMS}use_class_agnostic_nms": OFF,
    f"{_NMS}use_combined_nms": OFF,
    f"{_NMS}use_partitioned_nms": OFF,
    f"{_NMS}use_static_shapes": Ignored("the shape of the output only"),
    f"{_NMS}use_hard_nms": Ignored("hard in any case"),
    f"{_NMS}use_cpu_nms": Ignored("where it runs"),
    f"{_NMS}change_coordinate_frame": ON,
    f"{_NMS}max_classes_per_detection": Ignored("without effect where classes are suppressed one by one"),
    f"{_SSD}post_processing.score_converter": Only(("SIGMOID",), "IDENTITY"),
    f"{_SSD}post_processing.logit_scale": Only((1,), 1),
    **dict.fromkeys(
        (
            *("train_config", "train_input_reader", "eval_config", "eval_input_reader"),
            *(f"{_SSD}{name}" for name in ("matcher", "similarity_calculator", "loss", "negative_class_weight")),
            *(f"{_SSD}{name}" for name in ("normalize_loss_by_num_matches", "normalize_loc_loss_by_codesize")),
            *(f"{_SSD}{name}" for name in ("freeze_batchnorm", "inplace_batchnorm_update")),
            *(f"{_SSD}{name}" for name in ("encode_background_as_zeros", "use_confidences_as_targets")),
            *(f"{_SSD}{name}" for name in ("implicit_example_weight", "return_raw_detections_during_predict")),
        ),
        TRAINING,
    ),
}
