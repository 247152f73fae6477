"""What a file that this project wrote says of itself, for the readers of PyTorch files and of Keras weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from converter.errors import CorruptFileError
from converter.hparams import hparams_of
from converter.readers.base import VariableSource
from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import ConfigError

ORIGIN = "its metadata"
MAX_METADATA_BYTES = 1 << 20  # as JSON; this project writes some 10 kB


def apply_metadata(source: VariableSource, metadata: Mapping[str, Any]) -> None:
    """Let a source know the hyperparameters and the provenance that its file states.

    Args:
        source: `given` and `provenance` are set.
        metadata: of a converted file, fit for JSON; {} if another tool wrote it.

    Raises:
        CorruptFileError: They hold no valid config.
    """
    if isinstance(metadata.get("config"), dict):
        try:
            config = EfficientDetConfig.from_dict(metadata["config"])
        except ConfigError as error:
            raise CorruptFileError(
                f"{source.path}: the config in its metadata does not fit: {str(error)[:200]}. Convert again."
            ) from error
        source.given = ((ORIGIN, hparams_of(config)),)
    if isinstance(metadata.get("source"), dict):
        source.provenance = {"from": metadata["source"]}


def plain_metadata(value: Any) -> dict[str, Any]:
    """Return metadata as JSON would give them back; {} for any other value that a pickle may hold.

    A few bytes of a pickle can stand for an endless text (a list that holds another one twice, and so on), so the text
    is made piece by piece.
    """
    text = ""
    try:
        for piece in json.JSONEncoder().iterencode(value):
            text += piece
            if len(text) > MAX_METADATA_BYTES:
                return {}
        return dict(json.loads(text))
    except (RecursionError, TypeError, ValueError):
        return {}


def holds_averages(metadata: Mapping[str, Any]) -> bool:
    """Whether a file says that its one copy of the variables is the averages."""
    view = metadata.get("view")
    return isinstance(view, dict) and view.get("name") == "ema"
