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


def apply_metadata(source: VariableSource, metadata: Mapping[str, Any]) -> None:
    """Let a source know the hyperparameters and the provenance that its file states.

    Args:
        source: `given` and `provenance` are set.
        metadata: of a converted file; {} if another tool wrote it.

    Raises:
        CorruptFileError: They hold no valid config.
    """
    if isinstance(metadata.get("config"), dict):
        try:
            config = EfficientDetConfig.from_dict(metadata["config"])
        except ConfigError as error:
            raise CorruptFileError(
                f"{source.path}: the config in its metadata does not fit: {error}. Convert again."
            ) from error
        source.given = ((ORIGIN, hparams_of(config)),)
    if _is_plain(metadata.get("source")):
        source.provenance = {"from": metadata["source"]}


def holds_averages(metadata: Mapping[str, Any]) -> bool:
    """Whether a file says that its one copy of the variables is the averages."""
    view = metadata.get("view")
    return isinstance(view, dict) and view.get("name") == "ema"


def _is_plain(value: Any) -> bool:
    """Whether a value can be written as JSON: a pickle may hold anything, even itself."""
    try:
        return isinstance(value, dict) and bool(json.dumps(value))
    except (RecursionError, TypeError, ValueError):
        return False
