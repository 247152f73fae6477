"""The `config.yaml` that official training writes: found, and read as plain data without running anything.

A second reading on purpose: with the converter's it shares the limits of size and no more, so that mistakes there do
not repeat themselves here.

Source: the official code's `hparams_config` (the file) and `utils.archive_ckpt` (the folders).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from effdet_torch.untrusted.documents import parse_yaml
from effdet_torch.untrusted.files import MAX_YAML_BYTES, read_bytes, reason_of
from verify.errors import ReferenceModelError

CONFIG_FILE = "config.yaml"
# Training copies its best checkpoint into these folders, and leaves its settings in the folder above.
COPIES = ("archive", "backup")
TAG = "tag:yaml.org,2002:"


def find_config_file(folder: Path) -> Path | None:
    """Return the `config.yaml` of a checkpoint's folder; of the folder above, if this one is a copy of the best."""
    is_copy = folder.absolute().name.startswith(COPIES)
    for place in (folder, *([folder.absolute().parent] if is_copy else [])):
        if (place / CONFIG_FILE).is_file():
            return place / CONFIG_FILE
    return None


def read_config_file(path: Path) -> dict[str, Any]:
    """Read hyperparameters from a file that may come from a stranger.

    Raises:
        ReferenceModelError: The file cannot be read, is not a mapping, or has a tag that would need code to run.
    """
    try:
        values = parse_yaml(read_bytes(path, MAX_YAML_BYTES), _PlainLoader)
    except OSError as error:
        raise ReferenceModelError(f"{path} cannot be read: {reason_of(error)}") from error
    except ValueError as error:
        raise ReferenceModelError(f"{path} is not the plain YAML that training writes: {error}") from error
    if not isinstance(values, dict):
        raise ReferenceModelError(f"{path} contains a {type(values).__name__}; expected names and values")
    return {str(name): value for name, value in values.items()}


class _PlainLoader(yaml.SafeLoader):
    """Knows two tags more than `SafeLoader`, both as tuples: Python's own, and the arguments of a `BlockArgs`."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse merge keys: training writes none, and nested ones grow without bound."""
        if any(key.tag == f"{TAG}merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "merge keys (<<) are not supported", node.start_mark)


def _read_tuple(loader: yaml.SafeLoader, node: yaml.Node) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node, deep=True))  # type: ignore[arg-type]  # refuses other nodes


def _read_arguments(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> tuple[Any, ...]:
    if suffix.rpartition(".")[2] != "BlockArgs":
        raise yaml.constructor.ConstructorError(None, None, f"the object {suffix!r} is not BlockArgs", node.start_mark)
    return _read_tuple(loader, node)


_PlainLoader.add_constructor(f"{TAG}python/tuple", _read_tuple)
_PlainLoader.add_multi_constructor(f"{TAG}python/object/new:", _read_arguments)
