"""What the user asked to be trained, and with what."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from effdet_torch.train.recipe import Recipe

Copy = Literal["ema", "raw"]


class OpenSource(Protocol):
    """Opens whatever `effdet-convert` takes; the converter is above this package, so its caller hands this down."""

    def __call__(
        self,
        source: str,
        *,
        weights: Copy | None = None,
        hparams: str | None = None,
        keep_redundant_bias: bool = False,
    ) -> AbstractContextManager[Path]:
        """Return a context manager of a converted `.safetensors` file, which exists as long as its block runs.

        Args:
            source: a path, an official name or a URL.
            weights: which copy to take; None takes the averages, if stored.
            hparams: hyperparameters in the official syntax, or a file of them.
            keep_redundant_bias: keep the biases in front of batch norms, which frozen batch norms need.
        """


@dataclass(frozen=True)
class TrainRequest:
    """A training as the user named it.

    Attributes:
        data: the folder or file of the data set.
        out: the run folder.
        recipe: every setting of the training.
        recipe_name: what the recipe was made from.
        source: what training starts from: a file of this project, anything that `effdet-convert` takes, "scratch" for
            random weights, or None for the official weights of `variant`.
        hparams: of `source`, in the official syntax, or a file of them.
        variant: of the network; None is the source's, or d0.
        image_size: (height, width) of the network input in pixels; None keeps the source's.
        val_split: share of the training images that is put aside for validation; None takes the data's own split.
        resume: continue the run in `out`.
        workers: processes that read images; None chooses by the number of cores.
        device: "cpu", "cuda", ...; None takes the GPU if there is one.
        batch_auto: find the largest batch that fits in memory, instead of `recipe.batch`.
        check_data: only read and describe the data.
        tensorboard: write events for TensorBoard.
    """

    data: Path
    out: Path
    recipe: Recipe
    recipe_name: str = "default"
    source: str | None = None
    hparams: str | None = None
    variant: str | None = None
    image_size: tuple[int, int] | None = None
    val_split: float | None = None
    resume: bool = False
    workers: int | None = None
    device: str | None = None
    batch_auto: bool = False
    check_data: bool = False
    tensorboard: bool = False
