"""Where hyperparameters are stated: a `config.yaml`, the source itself, the user's option."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from converter.hparams.fields import OPTION, require_names
from converter.hparams.syntax import parse_hparams, read_hparams_file
from converter.source import VariableSource
from effdet_torch.errors import ConfigError

CONFIG_FILE = "config.yaml"
# Training copies its best checkpoint into such a folder, and an export writes one; config.yaml stays one level above.
COPY_OF_PARENT = re.compile(r"(archive|backup|best|export|exported_model|saved_?model)([-_.\d].*)?", re.IGNORECASE)
SIMILAR_NAMES = ("config.yml", "Config.yaml")


class Given(NamedTuple):
    """(origin, hyperparameters), weakest first, and notes about what was found."""

    hparams: list[tuple[str, Mapping[str, Any]]]
    notes: list[str]


def given_hparams(source: VariableSource, option: str | Mapping[str, Any] | None = None) -> Given:
    """Return what is stated about a source: by `config.yaml`, the source itself, and the user's option.

    Args:
        source: its folder, or the folder above a copy such as `archive`, may hold a `config.yaml`.
        option: `--hparams`: the name of a YAML file, or `key=value,key=value`; or names and values.

    Raises:
        ConfigError: One of them cannot be read, or has an unknown name.
    """
    given, notes = list[tuple[str, Mapping[str, Any]]](), list[str]()
    if source.facts.takes_config_file:
        path, origin, notes = _config_file(source.facts.folder)
        outside = source.path.parent / CONFIG_FILE
        if path is None and source.facts.folder.absolute() != source.path.absolute().parent and outside.is_file():
            notes = notes or [
                f"the {CONFIG_FILE} beside {source.path.name} is not used; to use it, pass --hparams {outside}"
            ]
        if path is not None:
            given.append((origin, _read(path, origin)))
        elif option:  # the user states what to take
            notes = []
    given += source.facts.given
    if isinstance(option, str):
        is_file = option.lower().endswith((".yaml", ".yml"))
        option = read_hparams_file(Path(option)) if is_file else parse_hparams(option)
    if option:
        require_names(option, OPTION)
        given.append((OPTION, option))
    return Given(given, notes)


def _config_file(folder: Path) -> tuple[Path | None, str, list[str]]:
    """Return the config.yaml that belongs to a folder, what to call it, and notes."""
    beside, above, name = folder / CONFIG_FILE, folder.absolute().parent / CONFIG_FILE, folder.absolute().name
    if beside.is_file():
        return beside, CONFIG_FILE, []
    if similar := [other for other in SIMILAR_NAMES if (folder / other).is_file()]:
        note = f"{similar[0]} is not used: it is not called {CONFIG_FILE}; pass --hparams {folder / similar[0]}"
    elif not above.is_file():
        return None, "", []
    elif COPY_OF_PARENT.fullmatch(name):
        return above, f"{CONFIG_FILE} above {name}/", [f"{CONFIG_FILE} of the folder above {name}/ is used"]
    else:
        note = (
            f"the {CONFIG_FILE} in the folder above {name}/ is not used; if it belongs to this checkpoint, pass "
            f"--hparams {above}"
        )
    return None, "", [note]


def _read(path: Path, origin: str) -> dict[str, Any]:
    hparams = read_hparams_file(path)
    try:
        require_names(hparams, origin)
    except ConfigError as error:
        raise ConfigError(f"{error}. Fix {path}, or move it away if it belongs to something else") from error
    return hparams
