"""Whatever `effdet-convert` takes, as a converted file that exists only as long as it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from converter.plan.copies import ViewName


@contextmanager
def converted_file(
    source: str,
    *,
    weights: ViewName | None = None,
    hparams: str | None = None,
    keep_redundant_bias: bool = False,
) -> Iterator[Path]:
    """Convert a source to a temporary `.safetensors` file, and yield its path; it is removed behind the block.

    Args:
        source: a path, an official name or a URL; see `open_checkpoint`.
        weights: which copy to convert; None takes the averages, if stored.
        hparams: hyperparameters in the official syntax, or a file of them.
        keep_redundant_bias: keep the biases in front of batch norms.

    Raises:
        ConversionError: The source cannot be opened or downloaded, or is not a complete network.
        ConfigError: A hyperparameter or an official name does not exist.
    """
    from tempfile import TemporaryDirectory  # late, as everything that a command's --help does not need

    from converter.conversion import convert_checkpoint, prepare
    from converter.locate import open_checkpoint
    from effdet_torch.terminal.bar import progress_bar

    with TemporaryDirectory(prefix="effdet-") as folder:
        file = Path(folder) / "model.safetensors"
        with progress_bar("download") as progress, open_checkpoint(source, progress) as opened:
            convert_checkpoint(prepare(opened, None, weights, hparams, keep_redundant_bias), file)
        yield file
