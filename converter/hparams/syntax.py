"""The official syntax of hyperparameters: the `config.yaml` that training writes, or `key=value,...` as typed.

Source: the official code's `hparams_config` (`Config.override`, `Config.parse_from_str`).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from effdet_torch.errors import ConfigError
from effdet_torch.untrusted.documents import parse_yaml
from effdet_torch.untrusted.files import MAX_YAML_BYTES, read_bytes, reason_of

_TUPLE, _BLOCK = "tag:yaml.org,2002:python/tuple", "tag:yaml.org,2002:python/object/new:"
_MAX_DEPTH = 8  # of nested values, such as the inputs of a node of fpn_config


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader` with the two other tags that training writes, read as plain lists.

    `!!python/tuple` is an image size, `!!python/object/new:...BlockArgs` a block of a backbone; nothing is executed.
    """


def _read_tuple(loader: yaml.SafeLoader, node: yaml.SequenceNode) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node, deep=True))  # refuses any other kind of node


def _read_block(loader: yaml.SafeLoader, name: str, node: yaml.SequenceNode) -> list[Any]:
    if name.rpartition(".")[2] != "BlockArgs":
        raise yaml.constructor.ConstructorError(None, None, f"a Python object {name[:80]!r}", node.start_mark)
    return loader.construct_sequence(node, deep=True)


_Loader.add_constructor(_TUPLE, _read_tuple)
_Loader.add_multi_constructor(_BLOCK, _read_block)


def read_hparams_file(path: Path) -> dict[str, Any]:
    """Read a YAML file of hyperparameters.

    Raises:
        ConfigError: The file cannot be read, is not safe YAML, states a name twice, or is not a mapping.
    """
    try:
        values = parse_yaml(read_bytes(path, MAX_YAML_BYTES), _Loader)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {reason_of(error)}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not plain YAML ({error}); fix it, or pass its values with --hparams") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} contains a {type(values).__name__}; expected names and values")
    return {str(key): value for key, value in values.items()}


def parse_hparams(text: str) -> dict[str, Any]:
    """Parse `key=value,group.key=value`, with lists as `1*2*3` and the image size as `640x384` (width x height).

    Raises:
        ConfigError: A pair has no name or no value, or a name is given twice.
    """
    values: dict[str, Any] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise ConfigError(f"hyperparameter {pair!r} is not of the form key=value")
        items = [_literal(item.strip()) for item in value.split("*")]
        nested: Any = items if len(items) > 1 else items[0]
        *groups, name = key.strip().split(".")
        for group in reversed((*groups[1:], name) if groups else ()):
            nested = {group: nested}
        values = merged(values, {groups[0] if groups else name: nested}, key.strip())
    return values


def merged(values: Mapping[str, Any], more: Mapping[str, Any], given_twice: str = "", depth: int = 0) -> dict[str, Any]:
    """Return values with others on top; groups are merged name by name, as the official override does.

    Args:
        values: names and values.
        more: on top of them.
        given_twice: the name to report if a value would be replaced; "" if it may be.
        depth: of the recursion.

    Raises:
        ConfigError: A value would be replaced and may not be.
    """
    result = dict(values)
    for name, value in more.items():
        before = result.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping) and depth < _MAX_DEPTH:
            value = merged(before, value, given_twice, depth + 1)
        elif given_twice and name in result:
            raise ConfigError(f"hyperparameter {given_twice} is given twice; give it once")
        result[name] = value
    return result


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: nested too deeply
        return {"true": True, "false": False, "none": None, "null": None}.get(text.lower(), text)
