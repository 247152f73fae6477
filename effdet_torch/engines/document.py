"""The document in an exported file: what the file takes and returns, its config, class names and provenance.

It is one JSON text under `METADATA_KEY`, wherever a format has room for one, so that every runtime can show it:

    format_version, config, source, view, ...   those of the converted file, see docs/file_format.md
    label_map                                    {category id: name}
    anchors                                      how the boxes refer to the image, for files without detections
    export                                       `Interface`, and "with": {package: version} of what wrote it
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from effdet_torch.checks import SEGMENTATION
from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import ConfigError, ModelFileError
from effdet_torch.file_format import FORMAT_VERSION, METADATA_KEY, newer_format
from effdet_torch.processing.profiles import Profile
from effdet_torch.untrusted.documents import parse_json

EXPORT_VERSION = 1  # of the part "export"
MAX_DOCUMENT_BYTES = 16 << 20  # 20 000 class names have 1 MB
EXPORT_AGAIN = "Export the model again with effdet-export."

Outputs = Literal["network", "detections"]
Pixels = Literal["normalized", "uint8"]
Precision = Literal["float32", "float16", "int8"]

T = TypeVar("T")

INPUT = "images"
DETECTIONS = ("boxes", "scores", "classes", "count")


@dataclass(frozen=True)
class Interface:
    """What an exported file takes and returns; a `.tflite` file as TensorFlow's own, see `LiteRtEngine`.

    Attributes:
        outputs: "network": what the heads predict; "detections": boxes, scores, classes and count.
        pixels: "normalized": (B, 3, H, W) float32, as `preprocess` returns it, in a `.tflite` file (B, H, W, 3);
            "uint8": (B, H, W, 3), RGB.
        batch: the only batch size that the file takes; None: any.
        image_size: (height, width) that the file takes; None: any that the network takes.
        precision: of weights and arithmetic ("float16" in a `.tflite` file: of weights alone); inputs and outputs are
            float32 in any case, but for `pixels`.
        profile: the settings of the postprocessing inside; {} for "network".
    """

    outputs: Outputs = "network"
    pixels: Pixels = "normalized"
    batch: int | None = 1
    image_size: tuple[int, int] | None = None
    precision: Precision = "float32"
    profile: Mapping[str, Any] = field(default_factory=dict)

    def output_names(self, config: EfficientDetConfig) -> list[str]:
        """Return the names of the file's outputs, in order."""
        if self.outputs == "detections":
            return list(DETECTIONS)
        heads = ("class", "box") if config.detects else ()
        names = [f"{head}_{level}" for head in heads for level in config.levels]
        return [*names, SEGMENTATION] if config.segments else names


def by_head(outputs: Sequence[T], config: EfficientDetConfig) -> Any:
    """Divide the outputs of a network, in the order of `Interface.output_names`, as `EfficientDet.forward` does."""
    levels = len(config.levels)
    if not config.detects:
        return outputs[0]
    return (outputs[:levels], outputs[levels : 2 * levels], *outputs[2 * levels :])


@dataclass(frozen=True)
class Document:
    """The document of one file.

    Attributes:
        config: of the model, with the image size of the file.
        interface: of the file.
        metadata: the whole document, as it is stored.
    """

    config: EfficientDetConfig
    interface: Interface
    metadata: Mapping[str, Any]

    def to_json(self) -> str:
        """Return the text to store."""
        return json.dumps(self.metadata, ensure_ascii=True)


def make_document(
    config: EfficientDetConfig,
    interface: Interface,
    metadata: Mapping[str, Any],
    written_with: Mapping[str, str],
) -> Document:
    """Return the document of a new file.

    Args:
        config: of the model.
        interface: of the file.
        metadata: of the converted file that the model is from.
        written_with: {package: version}.
    """
    if interface.image_size is not None:
        config = replace(config, image_size=interface.image_size)
    export = {"version": EXPORT_VERSION, **asdict(interface), "with": dict(written_with)}
    anchors = {
        "order": "level, y, x, octave, aspect ratio",
        "levels": list(config.levels),
        "octaves": config.num_scales,
        **{name: value for name, value in config.to_dict().items() if name in ("aspect_ratios", "anchor_scale")},
    }
    parts = {"config": config.to_dict(), "label_map": dict(config.label_map), "anchors": anchors, "export": export}
    return Document(config, interface, {"format_version": FORMAT_VERSION, **metadata, **parts})


def read_document(path: Path, text: str | bytes | None) -> Document:
    """Read the document that was found in a file.

    Raises:
        ModelFileError: There is none, or it was not written by effdet-export, or by a newer one.
    """
    if not text:
        raise ModelFileError(
            f"{path} was not written by effdet-export: it has no metadata entry {METADATA_KEY!r}. {EXPORT_AGAIN}"
        )
    if len(text) > MAX_DOCUMENT_BYTES:
        raise ModelFileError(f"the metadata of {path} have {len(text)} bytes; expected at most {MAX_DOCUMENT_BYTES}.")
    try:
        metadata = parse_json(text)
        export = dict(metadata["export"])
        version = export.pop("version")
        export.pop("with", None)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"the metadata of {path} are damaged, or another tool's: {error!r}. {EXPORT_AGAIN}"
        ) from error
    if reason := newer_format(metadata):
        raise ModelFileError(f"{path} {reason}")
    if version != EXPORT_VERSION:
        raise ModelFileError(
            f"{path} was exported in version {version!r}; this version reads {EXPORT_VERSION}. {EXPORT_AGAIN}"
        )
    try:
        config = EfficientDetConfig.from_dict(metadata["config"])
        return Document(config, _interface(export, config), metadata)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"the metadata of {path} do not fit: {error}. {EXPORT_AGAIN}") from error


def _interface(values: dict[str, Any], config: EfficientDetConfig) -> Interface:
    """Return the interface that a document states, if it is one."""
    size, batch = values["image_size"], values["batch"]
    if size not in (None, list(config.image_size)):
        raise ValueError(f"image_size is {size!r}; expected {list(config.image_size)}, as in config, or none")
    values["image_size"] = None if size is None else config.image_size
    choices = {
        "outputs": get_args(Outputs),
        "pixels": get_args(Pixels),
        "precision": get_args(Precision),
    }
    for name, known in choices.items():
        if values[name] not in known:
            raise ValueError(f"{name} is {values[name]!r}; expected {' or '.join(known)}")
    if batch is not None and (not isinstance(batch, int) or not 1 <= batch <= 4096):
        raise ValueError(f"batch is {batch!r}; expected 1 to 4096, or none")
    if not isinstance(values["profile"], dict):
        raise TypeError("profile is not a dictionary")
    if values["outputs"] == "detections":
        profile_from(values["profile"])
    return Interface(**values)


def plain_profile(profile: Profile) -> dict[str, Any]:
    """Return a profile as JSON can hold it; no score threshold is None."""
    values = asdict(profile)
    return values | {"score_threshold": None if profile.score_threshold < -1e30 else profile.score_threshold}


def profile_from(values: Mapping[str, Any]) -> Profile:
    """Return the profile of a document; the inverse of `plain_profile`.

    Raises:
        ConfigError: The values are not those of a profile.
    """
    try:
        given = dict(values)
        if given.get("score_threshold") is None:
            del given["score_threshold"]
        return Profile(**given)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{values!r} is not a profile") from error
