"""Converted files: where their metadata are stored, which versions of them this version reads, and checksums."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from effdet_torch.errors import listed
from effdet_torch.untrusted.files import map_file

FORMAT_VERSION = 2  # 1: without `assumed`, and with fewer settings in `config`
METADATA_KEY = "effdet_convert"  # under which .safetensors and .h5 files hold their metadata, as JSON
# Where the CRC-32C of every tensor is, over its bytes as they lie in the file. .safetensors: {tensor: 8 hexadecimal
# digits} as JSON; .h5: an attribute of every layer, numbers in the order of its weights. .pth has those of its archive.
CHECKSUMS_KEY = "effdet_crc32c"
MODEL_SUFFIXES = (".pth", ".pt", ".safetensors")
EXPORTED_SUFFIXES = (".onnx", ".xml", ".pt2", ".torchscript", ".pte", ".tflite")
TFLITE_SUFFIX = ".tflite"  # of files from elsewhere as well, which effdet-convert reads
_TFLITE_MARK = re.compile(
    b"%s%s\0" % (len(METADATA_KEY).to_bytes(4, "little"), METADATA_KEY.encode())
)  # in a FlatBuffer
PARENT = "parent"  # in the metadata of a saved model: what its values are no more, see `saving.INHERITED`
TRAINING = "training"  # in the metadata of a trained model: recipe, data, versions, how far it is
UNTRAINED = "untrained"  # in the metadata: the parts of the network that hold initial values
WHOLE_NETWORK = "the whole network"  # one of these parts
NOT_RECORDED = "not known: the file was written before evidence was recorded; convert the checkpoint again to see it"
OFTEN_CHANGED = ("image_size", "aspect_ratios", "mean_rgb")  # the others rarely differ from the variant's
MOST_NAMED = 3
MOST_LETTERS = 60
SAVED = "the saved model"  # the origin of the settings of a model that was never converted
SAVED_BY = "effdet_torch.save_model"  # the name of the tool in the metadata of a saved model
GRAPH = "graph ("  # how the origin "graph (NAME)" of a setting begins


def is_swapped(model: Path, other: Path) -> bool:
    """Whether a model was probably meant by the other of two arguments: only that one has a model's suffix."""
    return other.suffix in MODEL_SUFFIXES and model.suffix not in MODEL_SUFFIXES


def is_exported(path: Path) -> bool:
    """Whether a file is one of effdet-export's, by its suffix; a `.tflite` also has to hold our metadata."""
    if path.suffix.lower() != TFLITE_SUFFIX:
        return path.suffix.lower() in EXPORTED_SUFFIXES
    try:
        return _TFLITE_MARK.search(map_file(path)) is not None
    except OSError:
        return False  # whoever opens it says why


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def newer_format(metadata: Mapping[str, Any]) -> str:
    """Return why metadata cannot be read, as the end of a sentence about their file; "" if they can."""
    version = metadata.get("format_version", FORMAT_VERSION)
    if isinstance(version, int) and version <= FORMAT_VERSION:
        return ""
    return f"is written in format {version!r}; this version reads up to {FORMAT_VERSION}. Update effdet-convert."


def assumptions(metadata: Mapping[str, Any]) -> str | None:
    """Return, in words, what a converted file only assumes about its network; None if that is nothing.

    Args:
        metadata: `assumed` is {official hyperparameter: value}; a file of an earlier version has no such entry.
            `config` decides which file could state them.
    """
    if not isinstance(metadata.get("assumed"), Mapping):
        return NOT_RECORDED
    if not metadata["assumed"]:
        return None
    # Only networks of the TF Object Detection API, which has a file of its own, resize like this.
    is_api = metadata.get("config", {}).get("resize") == "legacy"
    file = "pipeline.config" if is_api else "config.yaml"
    return (
        f"{listed_settings(metadata['assumed'])} (not set in {file} or --hparams); if that is wrong, convert "
        f"again with --hparams, or with {file} beside the checkpoint"
    )


def assumptions_briefly(metadata: Mapping[str, Any]) -> str | None:
    """Return what `assumptions` returns in a line that fits beside others: names, but no values."""
    if not isinstance(metadata.get("assumed"), Mapping):
        return NOT_RECORDED
    return assumed_briefly(metadata["assumed"]) if metadata["assumed"] else None


def assumed_briefly(names: Iterable[str]) -> str:
    """Return how many settings are assumed and the first names, those first that a user is most likely to change."""
    ordered = sorted(names, key=lambda name: name not in OFTEN_CHANGED)
    count = f"{len(ordered)} setting{'' if len(ordered) == 1 else 's'}"
    return f"{count} ({listed(ordered, MOST_NAMED)}; effdet-inspect shows the values)"


def untrained_stated(metadata: Mapping[str, Any]) -> list[str]:
    """Return which parts of a network were never trained, as its file states; [] if it states none."""
    parts = metadata.get(UNTRAINED)
    return [str(part)[:MOST_LETTERS] for part in parts] if isinstance(parts, list) else []


def untrained(metadata: Mapping[str, Any]) -> str | None:
    """Return in words which parts of a network were never trained, as its file states; None if it states none."""
    if not (parts := untrained_stated(metadata)):
        return None
    names = listed(parts, MOST_NAMED)
    return f"UNTRAINED {names}: still initial values; train the model before you use it"


def trained(training: Any) -> str | None:
    """Return in words how a model was trained, as its file states under `TRAINING`; None if it does not."""
    if not isinstance(training, Mapping):
        return None
    ap = training.get("AP")
    score = f", AP {100 * ap:.1f}" if isinstance(ap, float | int) else ""
    stated = {name: str(training.get(name, "?"))[:MOST_LETTERS] for name in ("recipe", "epoch", "weights", "from")}
    return "{recipe} recipe, epoch {epoch}, {weights} weights{score}; started from {from}".format(score=score, **stated)


def config_origins(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return {field of the config: where its value is from}, as a file states it; {} if it does not."""
    stated = metadata.get("config_origins")
    return {str(field): str(origin) for field, origin in stated.items()} if isinstance(stated, Mapping) else {}


def listed_settings(values: Mapping[str, Any]) -> str:
    """Return hyperparameters as a list in words, with values as `--hparams` takes them."""
    return ", ".join(f"{name} {_words(value)}" for name, value in values.items())


def _words(value: Any) -> str:
    if isinstance(value, list):
        return "*".join(map(_words, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value).lower()
