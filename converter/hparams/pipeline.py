"""What the `pipeline.config` of the TF Object Detection API says: every setting is taken, ignored or refused.

Source: the API's `ssd.proto` and the messages that it uses, with their defaults.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from converter.errors import CorruptFileError, UnsupportedSourceError
from converter.hparams.text_proto import Fields, parse_text_proto
from effdet_torch.untrusted.files import read_bytes, reason_of

PIPELINE_FILE = "pipeline.config"
MAX_BYTES = 1 << 20  # a pipeline has 4 kB
BACKBONE = {f"ssd_efficientnet-b{number}_bifpn_keras": f"efficientnet-b{number}" for number in range(8)}
ACTIVATION = {"SWISH": "swish"}  # the backbone's has no setting
FUSION = {"fast_attention": "fastattn", "sum": "sum"}
LARGEST = 1e9  # above any number that counts; infinity and NaN fail the comparison
LEAST_SCORE = 1e-38  # every score is above 0, which is the API's default, but nms_configs has no 0


class Taken(NamedTuple):
    """A setting that counts.

    Attributes:
        name: of the hyperparameter, with dots.
        default: the API's own; None where it has none, and the setting may be absent.
        words: for a setting that is a word or text, {supported one: value of the hyperparameter}.
        least: of a number, the least value of the hyperparameter.
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
    f"{_NMS}score_threshold": Taken("nms_configs.score_thresh", 0.0, least=LEAST_SCORE),
    f"{_NMS}iou_threshold": Taken("nms_configs.iou_thresh", 0.6),
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


@dataclass(frozen=True)
class Pipeline:
    """A pipeline that was read.

    Attributes:
        origin: the file, as notes and errors call it.
        hparams: in the official syntax.
        box_coder: what (ty, tx, th, tw) are multiplied by.
        notes: what the user should know about the file.
    """

    origin: str
    hparams: Mapping[str, Any]
    box_coder: tuple[float, ...]
    notes: tuple[str, ...] = ()


def find_pipeline(folder: Path) -> Pipeline | None:
    """Read the pipeline of a checkpoint: beside it, or one folder above.

    Raises:
        CorruptFileError: It is not a pipeline as text.
        UnsupportedSourceError: It asks for what is not supported.
    """
    for path in pipeline_paths(folder):
        if path.is_file():
            if path.parent == folder.absolute():
                return read_pipeline(path)
            above = f"above {folder.absolute().name}/"
            note = f"{PIPELINE_FILE} of the folder {above} is used"
            return read_pipeline(path, f"{PIPELINE_FILE} {above}", (note,))
    return None


def pipeline_paths(folder: Path) -> list[Path]:
    """Return where the pipeline of a checkpoint in a folder may lie, nearest first."""
    from converter.formats.archive import is_temporary  # late: tarfile and all compressions

    folder = folder.absolute()
    return [place / PIPELINE_FILE for place in ((folder,) if is_temporary(folder) else (folder, folder.parent))]


def read_pipeline(path: Path, origin: str = PIPELINE_FILE, notes: tuple[str, ...] = ()) -> Pipeline:
    """Read a pipeline; see `find_pipeline` for the errors."""
    try:
        fields = parse_text_proto(read_bytes(path, MAX_BYTES).decode())
    except OSError as error:
        raise CorruptFileError(f"{path} cannot be read: {reason_of(error)}") from error
    except ValueError as error:
        raise CorruptFileError(
            f"{path} is not a pipeline of the TF Object Detection API ({error}); fix it, or move it away"
        ) from error
    try:
        hparams = _hparams(fields)
    except ValueError as error:
        raise UnsupportedSourceError(
            f"{path}: {error}; if the file belongs to another network, move it away"
        ) from error
    coder = hparams.pop("box_coder")
    return Pipeline(origin, hparams, tuple(float(coder[str(number)]) for number in range(4)), notes)


def _hparams(fields: Fields) -> dict[str, Any]:
    """Apply the rules to all settings; a ValueError says which one is not supported."""
    found = dict(_settings(fields))
    hparams: dict[str, Any] = {}
    stated: dict[str, str] = {}
    for path in [path for path in found if path not in RULES]:
        if not any(path.startswith(f"{scope}.") for scope, rule in RULES.items() if isinstance(rule, Ignored)):
            raise ValueError(f"{path} is not supported for EfficientDet")
    for path, rule in RULES.items():
        if isinstance(rule, Ignored):
            continue
        value = _value(path, rule, found)
        if isinstance(rule, Only) or value is None:
            continue
        group, _, name = rule.name.rpartition(".")
        values = hparams.setdefault(group, {}) if group else hparams
        if values.setdefault(name, value) != value:
            raise ValueError(f"{path} is {value!r}, but {stated[rule.name]} is {values[name]!r}; expected the same")
        stated.setdefault(rule.name, path)
    return hparams


def _value(path: str, rule: Taken | Only, found: Mapping[str, list[Any]]) -> Any:
    """Return the value of a setting, checked; None if it is absent and has no default."""
    values = found.get(path, [])
    if isinstance(rule, Taken) and rule.is_list:
        return [_number(path, _shortest(value)) for value in values] or None
    if len(values) > 1 and not (isinstance(rule, Only) and set(map(str, values)) <= set(map(str, rule.values))):
        raise ValueError(f"{path} is given {len(values)} times; expected once")
    value = _shortest(values[0]) if values else rule.default
    if isinstance(rule, Only):
        if value not in rule.values:
            where = "" if values else " (by default)"
            raise ValueError(f"{path} is {value}{where}; only {rule.values[0]} is supported")
        return value
    if value is None:
        return None
    if not rule.words:
        return max(_number(path, value), rule.least)
    if not isinstance(value, str) or value not in rule.words:
        raise ValueError(f"{path} is {str(value)[:40]!r}, which is not supported")
    return rule.words[value]


def _shortest(value: Any) -> Any:
    """Return a number without the digits of its float32 rounding: the API writes 0.001 as 0.0010000000474974513."""
    return float(str(np.float32(value))) if isinstance(value, float) and abs(value) < LARGEST else value


def _number(path: str, value: Any) -> Any:
    if not isinstance(value, (int, float)) or not 0 <= value < LARGEST:
        raise ValueError(f"{path} is {str(value)[:40]!r}; expected a number, 0 or more")
    return value


def _settings(fields: Fields, scope: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Yield (path, values) of every setting; a message that is ignored is not entered."""
    for name, values in fields.items():
        path = f"{scope}{name}"
        messages = [value for value in values if isinstance(value, dict)]
        if isinstance(RULES.get(path), Ignored):
            continue
        if not messages or path in RULES:
            yield path, values
        elif len(messages) == len(values) == 1:
            yield from _settings(messages[0], f"{path}.")
        else:
            raise ValueError(f"{path} is given {len(values)} times; expected once")
