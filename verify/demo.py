"""A verification that needs no download: a seeded checkpoint in the official layout, written, converted, verified."""

from __future__ import annotations

from pathlib import Path

import yaml

from converter.conversion import convert_checkpoint, prepare
from converter.hparams.fields import config_file_hparams
from converter.hparams.given import CONFIG_FILE
from converter.identify.effdet_package import no_tensorflow_original
from converter.locate import open_checkpoint
from effdet_torch.config import get_config
from effdet_torch.errors import ConfigError
from verify.seeded import write_seeded_checkpoint


def write_demo(variant: str, folder: Path) -> tuple[Path, Path]:
    """Write `checkpoint/` with its `config.yaml`, and the converted `<variant>.pth` into a folder.

    Values are seeded, not trained.

    Returns:
        The checkpoint's folder and the converted file.

    Raises:
        ConfigError: The variant does not exist, or has no TensorFlow original.
        OutputError: The folder cannot be written.
    """
    config = get_config(variant)
    if reason := no_tensorflow_original(config):
        raise ConfigError(f"{config.name} has no TensorFlow original to show: {reason}; choose an official variant, d0")
    checkpoint, model = folder / "checkpoint", folder / f"{config.name}.pth"
    prefix = write_seeded_checkpoint(config, checkpoint)
    hparams = yaml.safe_dump(config_file_hparams(config), sort_keys=False)
    (checkpoint / CONFIG_FILE).write_text(hparams, encoding="utf-8")
    with open_checkpoint(prefix) as source:
        convert_checkpoint(prepare(source), model)
    return checkpoint, model
