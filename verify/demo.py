"""A verification that needs no download: a seeded checkpoint in the official layout, written, converted, verified."""

from __future__ import annotations

from pathlib import Path

import yaml

from converter.conversion import convert_checkpoint, prepare
from converter.hparams.fields import hparams_of
from converter.hparams.given import CONFIG_FILE
from converter.locate import open_checkpoint
from effdet_torch.config import get_config
from verify.seeded import write_seeded_checkpoint


def write_demo(variant: str, folder: Path) -> tuple[Path, Path]:
    """Write `checkpoint/` with its `config.yaml`, and the converted `<variant>.pth` into a folder.

    Values are seeded, not trained.

    Returns:
        The checkpoint's folder and the converted file.

    Raises:
        ConfigError: The variant does not exist.
        OutputError: The folder cannot be written.
    """
    config = get_config(variant)
    checkpoint, model = folder / "checkpoint", folder / f"{config.name}.pth"
    prefix = write_seeded_checkpoint(config, checkpoint)
    (checkpoint / CONFIG_FILE).write_text(yaml.safe_dump(hparams_of(config), sort_keys=False), encoding="utf-8")
    with open_checkpoint(prefix) as source:
        convert_checkpoint(prepare(source), model)
    return checkpoint, model
