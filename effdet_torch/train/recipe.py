"""Recipes: every setting of a training, as the official trainer has it, and where ours differs.

Source: EfficientDet (arXiv:1911.09070) section 5; the official code's `hparams_config` and `det_model_fn`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple, get_args

from effdet_torch.checks import one_of
from effdet_torch.errors import ConfigError

OptimizerName = Literal["sgd", "adam", "adamw"]
ScheduleName = Literal["cosine", "stepwise", "polynomial"]
Normalizer = Literal["global", "replica"]
Variance = Literal["unbiased", "biased"]
OFFICIAL_BATCH = 64  # images per update for which the official learning rates are meant
OFFICIAL_RATE = 0.08


@dataclass(frozen=True)
class Recipe:
    """Every setting of a training. The defaults are those of the official main.py.

    Attributes:
        epochs: passes over the training images, in all.
        batch: images per process and forward pass. `batch` x `grad_accum` x processes are the images per update.
        grad_accum: forward passes per update; their loss has one normaliser, so that only batch norms notice.
        optimizer: "sgd" (with momentum), "adam" or "adamw".
        lr: highest learning rate; None is `base_rate` x images per update / 64.
        base_rate: learning rate for 64 images per update, where `lr` is None.
        momentum: of "sgd".
        warmup_epochs: in which the learning rate rises to `lr`.
        warmup_start: learning rate of the first step, as a part of `lr`.
        schedule: how the learning rate falls.
        drop_epochs: of "stepwise": epochs after which the rate is a tenth and a hundredth of `lr`; None is two thirds
            and five sixths of `epochs`.
        anneal_to_end: "cosine" falls to 0 at the last step. The official one counts from step 0 but ends the period
            `warmup` steps earlier, and rises again.
        weight_decay: factor of the L2 term of all parameters with more than one dimension; part of the loss, so that
            it is clipped with the gradient. With "adamw" it is decoupled.
        clip: largest norm of a gradient: first of every parameter's, then of all together; 0 is off.
        ema: decay of the moving averages of the weights; None keeps none. It is reached slowly: (1 + n) / (10 + n).
        alpha, gamma: of the focal loss.
        label_smoothing: of its cross entropy.
        delta: of the Huber loss.
        box_loss_weight: of the box loss.
        iou_loss: added to the box loss: "iou", "giou", "diou" or "ciou"; None adds nothing.
        iou_loss_weight: of that.
        ciou_gradient: of "ciou": "graph" is the official one, in which aspect ratios do not pull at the box; "true".
        normalizer: the loss is divided by the number of positive anchors in all processes ("global") or in each.
        positives_momentum: of a moving average of that number; None takes the batch's own.
        augment: names in `effdet_torch.train.input.augment.AUGMENTATIONS`, in the order in which they run.
        jitter: least and largest scale of "scale".
        fill_color: what surrounds an image: "mean" of the training images' colours, or "0", black.
        drop_path: probability of leaving out the backbone's last residual block; None is the official one.
        freeze: regular expression; parameters whose names start with a match are not trained.
        freeze_bn: batch norms use and keep their moving statistics.
        bn_variance: the moving variance takes n / (n - 1) times the batch's variance ("unbiased") or that itself; None
            is the official one: that itself with `sync_bn`, else "unbiased".
        sync_bn: batch norms see the images of all processes.
        amp: run the network in 16 bits where that is safe.
        keep_crowds: whether objects that stand for several are trained as objects.
        seed: of everything that is random.
        val_every: epochs between validations; the last epoch is always validated.
        patience: validations without a better AP after which the training ends; None never ends it.

    Raises:
        ConfigError: A value is not possible.
    """

    epochs: int = 300
    batch: int = 64
    grad_accum: int = 1
    optimizer: OptimizerName = "sgd"
    lr: float | None = None
    base_rate: float = OFFICIAL_RATE
    momentum: float = 0.9
    warmup_epochs: float = 1.0
    warmup_start: float = 0.1
    schedule: ScheduleName = "cosine"
    drop_epochs: tuple[float, float] | None = (200.0, 250.0)
    anneal_to_end: bool = False
    weight_decay: float = 4e-5
    clip: float = 10.0
    ema: float | None = 0.9998
    alpha: float = 0.25
    gamma: float = 1.5
    label_smoothing: float = 0.0
    delta: float = 0.1
    box_loss_weight: float = 50.0
    iou_loss: Literal["iou", "giou", "diou", "ciou"] | None = None
    iou_loss_weight: float = 1.0
    ciou_gradient: Literal["graph", "true"] = "graph"
    normalizer: Normalizer = "replica"
    positives_momentum: float | None = None
    augment: tuple[str, ...] = ("flip", "scale")
    jitter: tuple[float, float] = (0.1, 2.0)
    fill_color: Literal["mean", "0"] = "mean"
    drop_path: float | None = None
    freeze: str | None = None
    freeze_bn: bool = False
    bn_variance: Variance | None = None
    sync_bn: bool = False
    amp: bool = False
    keep_crowds: bool = False
    seed: int = 0
    val_every: int = 1
    patience: int | None = None

    def __post_init__(self) -> None:
        for name, (is_valid, expected) in CHECKS.items():
            value = getattr(self, name)
            if value is not None and not is_valid(value):
                raise ConfigError(f"{name} is {value!r}; expected {expected}")

    @property
    def is_biased(self) -> bool:
        """Whether the moving variance takes the batch's variance as it is."""
        return self.sync_bn if self.bn_variance is None else self.bn_variance == "biased"

    def top_rate(self, images_per_update: int) -> float:
        """Return the highest learning rate."""
        return self.base_rate * images_per_update / OFFICIAL_BATCH if self.lr is None else self.lr


CHECKS: Mapping[str, tuple[Any, str]] = {
    "epochs": (lambda value: value >= 1, "at least 1"),
    "batch": (lambda value: value >= 1, "at least 1"),
    "grad_accum": (lambda value: value >= 1, "at least 1"),
    "optimizer": one_of(get_args(OptimizerName)),
    "lr": (lambda value: 0 < value < float("inf"), "a positive number"),
    "base_rate": (lambda value: 0 < value < float("inf"), "a positive number"),
    "momentum": (lambda value: 0 <= value < 1, "0 to 1, 1 excluded"),
    "warmup_epochs": (lambda value: 0 <= value < float("inf"), "0 or more"),
    "schedule": one_of(get_args(ScheduleName)),
    "weight_decay": (lambda value: value >= 0, "0 or more"),
    "clip": (lambda value: value >= 0, "0 (off) or more"),
    "ema": (lambda value: 0 < value < 1, "between 0 and 1"),
    "alpha": (lambda value: 0 <= value <= 1, "0 to 1"),
    "gamma": (lambda value: value >= 0, "0 or more"),
    "label_smoothing": (lambda value: 0 <= value < 1, "0 to 1, 1 excluded"),
    "delta": (lambda value: 0 < value < float("inf"), "a positive number"),
    "box_loss_weight": (lambda value: 0 <= value < float("inf"), "0 or more"),
    "iou_loss": one_of(("iou", "giou", "diou", "ciou")),
    "iou_loss_weight": (lambda value: 0 <= value < float("inf"), "0 or more"),
    "ciou_gradient": one_of(("graph", "true")),
    "normalizer": one_of(get_args(Normalizer)),
    "bn_variance": one_of(get_args(Variance)),
    "fill_color": one_of(("mean", "0")),
    "positives_momentum": (lambda value: 0 <= value < 1, "0 to 1, 1 excluded"),
    "jitter": (lambda value: 0 < value[0] <= value[1], "two positive numbers, the smaller first"),
    "seed": (lambda value: 0 <= value < 2**64, "0 or more, below 2^64"),
    "val_every": (lambda value: value >= 1, "at least 1"),
    "patience": (lambda value: value >= 1, "at least 1"),
}


class Difference(NamedTuple):
    """A setting of the default recipe that is not the official one."""

    value: Any
    reason: str


# What `--recipe default` changes; printed at the start of a training, and the table in docs/training.md.
DEFAULT: Mapping[str, Difference] = {
    "epochs": Difference(50, "most data sets are small, and most trainings start from trained weights"),
    "batch": Difference(16, "fits a usual GPU"),
    "drop_epochs": Difference(None, "`stepwise` drops at 2/3 and 5/6 of the epochs, not after 200 and 250"),
    "anneal_to_end": Difference(True, "the official cosine rises again in the last steps"),
    "ciou_gradient": Difference("true", "the official one leaves out how the aspect ratio moves the box"),
    "bn_variance": Difference("unbiased", "with `sync_bn`, statistics are those of one process with all images"),
    "normalizer": Difference("global", "several processes train as one with all of the images"),
}
OFFICIAL = Recipe()
RECIPES: Mapping[str, Recipe] = {
    "official": OFFICIAL,
    "default": replace(OFFICIAL, **{name: row.value for name, row in DEFAULT.items()}),
}


def make_recipe(name: str = "default", **changes: Any) -> Recipe:
    """Return a recipe with some settings replaced; None keeps the recipe's.

    Raises:
        ConfigError: There is no such recipe or setting, or a value is not possible.
    """
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}; expected {' or '.join(RECIPES)}")
    known = [field.name for field in fields(Recipe)]
    if unknown := sorted(set(changes) - set(known)):
        raise ConfigError(f"unknown setting {unknown[0]!r}; known settings: {', '.join(known)}")
    return replace(RECIPES[name], **{key: value for key, value in changes.items() if value is not None})
