"""What cannot work, refused before a training begins; what works badly, said."""

from __future__ import annotations

from collections.abc import Iterator

from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import ConfigError
from effdet_torch.processes import ALONE, Processes
from effdet_torch.train.norms import ONE_VALUE
from effdet_torch.train.recipe import OFFICIAL_RATE, Recipe

FEW_IMAGES = 4  # fewer in a batch norm make its statistics noisy


def check_batch_norms(recipe: Recipe, config: EfficientDetConfig, processes: Processes = ALONE) -> str | None:
    """Check that batch norms see enough values; return a warning, or None.

    The official trainer goes on with one value per channel: the output is beta, whatever the image, and the moving
    variance falls to 0, which inference then divides by. Here it is refused.

    Args:
        recipe: the settings.
        config: of the model, with the image size of the training.
        processes: that train together.

    Raises:
        ConfigError: There is one value per channel at the coarsest level.
    """
    if recipe.freeze_bn:
        return None
    images = recipe.batch * (processes.count if recipe.sync_bn else 1)
    level, (height, width) = max(config.feature_sizes().items())
    if images * height * width == 1:
        size = "{1} x {0}".format(*config.image_size)
        raise ConfigError(
            f"with 1 image of {size} pixels the features of level P{level} are 1 x 1: {ONE_VALUE}",
            "Pass --batch 2 or more, a larger --image-size, --sync-bn in several processes, or --freeze-bn. "
            "--grad-accum does not help: every forward pass has batch norms of its own.",
        )
    if images >= FEW_IMAGES:
        return None
    pooled = "" if processes.count == 1 or recipe.sync_bn else ", --sync-bn, which joins the images of all processes,"
    return (
        f"batch norms see {images} image{'s' * (images > 1)} at a time: below {FEW_IMAGES} their statistics are noisy, "
        f"and the model may do worse in validation than in training; pass a larger --batch{pooled} or --freeze-bn, "
        "which keeps the statistics of the weights that training starts from"
    )


def check_rate(recipe: Recipe, images_per_update: int) -> Iterator[str]:
    """Yield warnings of learning rates that are hardly meant: the default of another optimizer, and an endless rise."""
    rate = recipe.top_rate(images_per_update)
    if recipe.optimizer != "sgd" and recipe.lr is None and recipe.base_rate == OFFICIAL_RATE:
        yield (
            f"the learning rate is {rate:.3g}, the default, which is meant for sgd; {recipe.optimizer} needs a lower "
            f"one: the original trainer suggests a tenth, --lr {rate / 10:.3g}"
        )
    if recipe.warmup_epochs >= recipe.epochs:
        yield (
            f"the warm-up is not shorter than the training (epochs: {recipe.warmup_epochs:g} and {recipe.epochs}), so "
            f"the learning rate does not reach {rate:.3g}; pass more --epochs or fewer --warmup-epochs"
        )
