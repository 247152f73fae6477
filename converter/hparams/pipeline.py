"""What the `pipeline.config` of the TF Object Detection API says: every setting is taken, ignored or refused.

Source: the API's `ssd.proto` and the messages that it uses, with their defaults.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import CorruptFileError, UnsupportedSourceError
from converter.hparams.pipeline_rules import RULES, Ignored, Only, Taken
from effdet_torch.untrusted.files import read_bytes, reason_of
from effdet_torch.untrusted.text_proto import Fields, parse_text_proto

PIPELINE_FILE = "pipeline.config"
MAX_BYTES = 1 << 20  # a pipeline has 4 kB
SMALLEST, LARGEST = 1e-9, 1e9  # around all numbers that count; infinity and NaN fail the comparison
# How the API's own reader lets a switch be written -> its value here.
SWITCHES = {**dict.fromkeys(("true", "True", "t", "1"), "true"), **dict.fromkeys(("false", "False", "f", "0"), "false")}


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
        fields = _fields(read_bytes(path, MAX_BYTES))
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


@lru_cache(maxsize=1)
def _fields(content: bytes) -> Fields:
    """Parse a pipeline; the last one is kept, as the settings and then the table's index sets are made of it."""
    return parse_text_proto(content.decode("utf-8-sig"))


def _hparams(fields: Fields) -> dict[str, Any]:
    """Apply the rules to all settings; a ValueError says which one is not supported."""
    if "model" not in fields:
        raise ValueError("it has no model { ... }")
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
        return [_number(path, _shortest(value), rule.least) for value in values] or None
    if isinstance(rule, Only) and rule.default in SWITCHES:
        values = [SWITCHES.get(str(value), value) for value in values]
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
        return _number(path, value, rule.least)
    if not isinstance(value, str) or value not in rule.words:
        raise ValueError(f"{path} is {str(value)[:40]!r}, which is not supported")
    return rule.words[value]


def _shortest(value: Any) -> Any:
    """Return a number without the digits of its float32 rounding: the API writes 0.001 as 0.0010000000474974513."""
    return float(str(np.float32(value))) if isinstance(value, float) and abs(value) < LARGEST else value


def _number(path: str, value: Any, least: float) -> Any:
    """Return a number; one that has a least value may be 0, and becomes that."""
    if not isinstance(value, (int, float)) or not (0 if least else SMALLEST) <= value < LARGEST:
        expected = "0 or more" if least else "above 0"
        raise ValueError(f"{path} is {str(value)[:40]!r}; expected a number, {expected}")
    return max(value, least)


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
