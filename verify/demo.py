"""A verification that needs no download: a seeded checkpoint in the official layout, written, converted, verified."""

from __future__ import annotations

from pathlib import Path

from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from effdet_torch.config import get_config
from verify.seeded import write_seeded_checkpoint


def write_demo(variant: str, folder: Path) -> tuple[Path, Path]:
    """Write `checkpoint/` and the converted `<variant>.pth` into a folder; values are seeded, not trained.

    Returns:
        The checkpoint's folder and the converted file.

    Raises:
        ConfigError: The variant does not exist.
        OutputError: The folder cannot be written.
    """
    config = get_config(variant)
    checkpoint, model = folder / "checkpoint", folder / f"{config.name}.pth"
    with open_checkpoint(write_seeded_checkpoint(config, checkpoint)) as source:
        convert_checkpoint(prepare(source), model)
    return checkpoint, model
