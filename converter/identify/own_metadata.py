"""Read the metadata of files that this project wrote, for the readers of PyTorch files and of Keras weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from converter.errors import CorruptFileError, UnsupportedSourceError
from converter.hparams.fields import METADATA, hparams_of
from converter.plan.table import VIEWS
from converter.source import SourceFacts
from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import ConfigError
from effdet_torch.file_format import METADATA_KEY, PARENT, TRAINING, newer_format, untrained_stated

# Entry in the metadata of a file -> what it becomes in the `source` of a file that is converted from it. The values of
# a saved model need not be those of its parent, so the two have different names.
LINEAGE: Mapping[str, str] = {"source": "from", PARENT: PARENT, TRAINING: TRAINING}
# Where a converted file, and one that effdet-train wrote, say which copy of the weights they hold.
HELD = (("view", "name"), (TRAINING, "weights"))
MAX_METADATA_BYTES = 1 << 20  # as JSON; this project writes some 10 kB


def with_metadata(facts: SourceFacts, metadata: Mapping[str, Any]) -> SourceFacts:
    """Return the facts about a source, with the hyperparameters and the provenance that its metadata state.

    Args:
        facts: `given`, `origins`, `held_view`, `takes_config_file` and `provenance` are replaced.
        metadata: of a converted file, as plain values; {} if another tool wrote it.

    Raises:
        CorruptFileError: Their config is not valid.
    """
    try:
        config = stated_config(metadata)
    except ConfigError as error:
        raise CorruptFileError(
            f"{facts.path}: the config in its metadata is not valid: {str(error)[:200]}. Convert again."
        ) from error
    if config is not None:
        facts = replace(facts, given=((METADATA, hparams_of(config)),), takes_config_file=False)
    if isinstance(origins := metadata.get("config_origins"), dict):
        facts = replace(facts, origins={str(field): str(origin) for field, origin in origins.items()})
    for section, entry in HELD:
        if isinstance(stated := metadata.get(section), dict) and stated.get(entry) in VIEWS:
            facts = replace(facts, held_view=stated[entry])
    if parts := untrained_stated(metadata):
        facts = replace(facts, untrained=tuple(parts))
    provenance = {ours: metadata[theirs] for theirs, ours in LINEAGE.items() if isinstance(metadata.get(theirs), dict)}
    return replace(facts, provenance=provenance)


def stated_config(metadata: Mapping[str, Any]) -> EfficientDetConfig | None:
    """Return the config that metadata state, if they do.

    Raises:
        ConfigError: It is not valid.
    """
    config = metadata.get("config")
    return EfficientDetConfig.from_dict(config) if isinstance(config, dict) else None


def plain_metadata(value: Any) -> dict[str, Any]:
    """Return metadata as they are after a round trip through JSON; {} for any other value that a pickle may hold.

    A few bytes of a pickle can expand to an endless text (a list that holds another one twice, and so on), so the text
    is built piece by piece.
    """
    text = ""
    try:
        for piece in json.JSONEncoder(allow_nan=False).iterencode(value):
            text += piece
            if len(text) > MAX_METADATA_BYTES:
                return {}
        metadata = json.loads(text)
        return metadata if isinstance(metadata, dict) else {}
    except (RecursionError, TypeError, ValueError):
        return {}


def parse_metadata(path: Path, text: str) -> dict[str, Any]:
    """Parse metadata stored as JSON under `METADATA_KEY`.

    Raises:
        CorruptFileError: They are not a JSON object.
        UnsupportedSourceError: A later version wrote them.
    """
    try:
        return require_version(path, dict(json.loads(text, parse_constant=_refuse_constant)))
    except (RecursionError, TypeError, ValueError) as error:
        raise CorruptFileError(f"{path}: the entry {METADATA_KEY!r} is not JSON: {error}. Copy it again.") from error


def require_version(path: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return metadata, or {} if another project wrote them.

    Raises:
        UnsupportedSourceError: A later version wrote them.
    """
    if "format_version" not in metadata:
        return {}
    if reason := newer_format(metadata):
        raise UnsupportedSourceError(f"{path} {reason}")
    return metadata


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not allowed in JSON")
