"""One update of the weights: forward passes, loss, gradients, clips, optimizer, moving averages.

Source: the official code's `det_model_fn`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from effdet_torch.errors import ConfigError, TrainingError, listed
from effdet_torch.network.model import EfficientDet
from effdet_torch.processes import ALONE, Processes
from effdet_torch.train.norms import prepare_norms
from effdet_torch.train.objective.loss import DetectionLoss, Losses
from effdet_torch.train.objective.normalizer import MovingNormalizer
from effdet_torch.train.objective.targets import Targets
from effdet_torch.train.recipe import Recipe
from effdet_torch.train.updates.clipping import clip_gradients, official_variables
from effdet_torch.train.updates.decay import L2
from effdet_torch.train.updates.ema import Averages
from effdet_torch.train.updates.freezing import freeze
from effdet_torch.train.updates.optimizers import DECOUPLED, make_optimizer, set_learning_rate
from effdet_torch.train.updates.schedule import Schedule, learning_rate
from effdet_torch.train.updates.together import together

# Each skipped update halves the scale of 16-bit losses, which starts at 2^16: after these it is 2^-14.
MOST_SKIPPED = 30
HALF = {"cuda": torch.float16, "cpu": torch.bfloat16}


class Batch(Protocol):
    """What an update needs of a batch: `effdet_torch.train.input.loader` makes them."""

    @property
    def images(self) -> Tensor:
        """(B, 3, H, W), network input."""

    @property
    def targets(self) -> Targets:
        """Of these images."""


class StepResult(NamedTuple):
    """What one update did.

    Attributes:
        total: the loss, L2 included; of all processes, as everything here.
        classes: focal loss.
        boxes: Huber loss, before its weight.
        iou: IoU loss, before its weight.
        l2: L2 term; 0 where weight decay is no part of the loss.
        lr: learning rate.
        gradient_norm: of all gradients together, before the clips.
        skipped: whether a 16-bit overflow left the weights as they were.
    """

    total: float
    classes: float
    boxes: float
    iou: float
    l2: float
    lr: float
    gradient_norm: float
    skipped: bool = False


class TrainStep:
    """Updates a model, one call at a time.

    The model is changed: parameters are frozen and batch norms replaced as the recipe asks, and it is kept in training
    mode. It must be on its device, and in its floating-point type, before.

    Args:
        model: what is trained.
        recipe: the settings.
        schedule: the learning rates.
        loss: what is minimised.
        processes: that train together; each calls with its own batches.
        averages: where the moving averages start, by name; the model's own values where a name is missing.
        channels_last: layout of features and kernels in memory, which is the faster one; sums are rounded in another
            order than without, nothing else changes.

    Attributes:
        step: number of updates done.
        averages: moving averages of the weights, or None if the recipe keeps none.
        skipped: 16-bit updates that were skipped, all of them.

    Raises:
        ConfigError: The recipe does not fit the model.
    """

    def __init__(
        self,
        model: EfficientDet,
        recipe: Recipe,
        schedule: Schedule,
        loss: DetectionLoss,
        processes: Processes = ALONE,
        *,
        averages: Mapping[str, Tensor] | None = None,
        channels_last: bool = True,
    ) -> None:
        self.recipe, self.schedule, self.loss, self.processes = recipe, schedule, loss, processes
        self.step = self.skipped = self._skipped_in_a_row = 0
        momentum = recipe.positives_momentum
        self._moving_normalizer = None if momentum is None else MovingNormalizer(momentum)
        freeze(model, recipe.freeze)
        prepare_norms(model, recipe, processes)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.memory_format)
        first = next(model.parameters())
        self.device, self.dtype = first.device, first.dtype
        named = dict(model.named_parameters())
        self.trained = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
        self.optimizer = make_optimizer(self.trained, recipe)
        self.l2 = L2(named, 0.0 if recipe.optimizer in DECOUPLED else recipe.weight_decay)
        self.averages = Averages(model, recipe.ema, averages) if recipe.ema else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.amp and self.device.type == "cuda")
        self.network = together(model, self.averages, processes)

    def __call__(self, batches: Sequence[Batch]) -> StepResult:
        """Do one update.

        Args:
            batches: `recipe.grad_accum` of them; their images count as one batch, except in batch norms.

        Raises:
            TrainingError: The loss or a gradient is not finite; the weights are those before. In 16 bits, gradients
                may overflow for a while.
        """
        if not self.model.training:
            self.model.train()
        rate = learning_rate(self.step, self.schedule)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._backward(batches, self._normalizer(batches))
        self.scaler.unscale_(self.optimizer)
        l2 = float(self.l2.value())
        self.l2.add_gradient()
        norm = float(clip_gradients(official_variables(self.trained), self.recipe.clip))
        total, classes, boxes, iou = losses.tolist()
        found = StepResult(total + l2, classes, boxes, iou, l2, rate, norm)
        overflow = self.scaler.is_enabled() and not math.isfinite(norm)
        self._require_finite(found, overflow)
        self._update(overflow)
        return found._replace(skipped=overflow)

    def _normalizer(self, batches: Sequence[Batch]) -> float:
        """Return what the losses of all these batches are divided by."""
        positives = sum((batch.targets.positives.sum() for batch in batches), torch.tensor(0))
        if self.recipe.normalizer == "global":
            positives = self.processes.sum(positives)
        normalizer = float(positives) + 1
        return normalizer if self._moving_normalizer is None else float(self._moving_normalizer(normalizer))

    @property
    def average_positives(self) -> float:
        """The moving average of the normaliser; 0 where the recipe has none."""
        return 0.0 if self._moving_normalizer is None else float(self._moving_normalizer.value)

    def _backward(self, batches: Sequence[Batch], normalizer: float) -> Tensor:
        """Add up the gradients of all batches; return total, classes, boxes and iou of all processes, (4,)."""
        # DistributedDataParallel averages gradients: what has one normaliser is a sum, what has several is averaged.
        share = self.processes.count if self.recipe.normalizer == "global" else 1
        losses = torch.zeros(4, device=self.device)
        for number, batch in enumerate(batches, 1):
            with self._unsynchronised(number < len(batches)):
                found = self._losses(batch, normalizer)
                torch.autograd.backward(self.scaler.scale(found.total * share))
            losses = losses + torch.stack([loss.detach() for loss in found])
        return self.processes.sum(losses * (share / self.processes.count))

    def _losses(self, batch: Batch, normalizer: float) -> Losses:
        images = batch.images.to(self.device, self.dtype, non_blocking=True, memory_format=self.memory_format)
        with torch.autocast(self.device.type, HALF.get(self.device.type), enabled=self.recipe.amp):
            outputs = self.network(images)
        losses: Losses = self.loss(*outputs, batch.targets, normalizer)
        return losses

    def _unsynchronised(self, wanted: bool) -> AbstractContextManager[None]:
        """Return what keeps gradients in this process, if wanted: the last backward pass shares them all."""
        if wanted and isinstance(self.network, DistributedDataParallel):
            return self.network.no_sync()
        return nullcontext()

    def _require_finite(self, found: StepResult, overflow: bool) -> None:
        names = {"class loss": found.classes, "box loss": found.boxes, "IoU loss": found.iou, "loss": found.total}
        if not overflow:
            names["norm of the gradients"] = found.gradient_norm
        wrong = next((name for name, value in names.items() if not math.isfinite(value)), None)
        if wrong is not None:
            raise TrainingError(
                f"step {self.step}: the {wrong} is {names[wrong]}; expected a finite number. Pass a lower --lr or more "
                "--warmup-epochs, or leave out --amp"
            )

    def _update(self, overflow: bool) -> None:
        """Change weights and averages, unless 16-bit gradients overflowed."""
        self.scaler.step(self.optimizer)  # which notices an overflow by itself
        self.scaler.update()
        self.step += 1
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if overflow else 0
        self.skipped += overflow
        if self._skipped_in_a_row == MOST_SKIPPED:
            raise TrainingError(
                f"step {self.step}: 16-bit gradients overflowed {MOST_SKIPPED} times in a row, however small "
                "their scale; train without --amp"
            )
        if self.averages is not None and not overflow:
            self.averages.update(self.model, self.step)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later updates depend on, except the model's own tensors."""
        return {
            "step": self.step,
            "trained": list(self.trained),
            "optimizer": self.optimizer.state_dict(),
            "averages": None if self.averages is None else self.averages.state_dict(),
            "scaler": self.scaler.state_dict(),
            "skipped": (self.skipped, self._skipped_in_a_row),
            "average_positives": self.average_positives,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another object stopped.

        Raises:
            ConfigError: The state belongs to another set of trained parameters, or to other averages.
        """
        if changed := sorted(set(state["trained"]) ^ set(self.trained)):
            raise ConfigError(
                f"the state to resume trains other parameters; trained in only one of both: {listed(changed)}. "
                "Resume with the same --freeze, or start a new training from the last weights"
            )
        if (state["averages"] is None) is not (self.averages is None):
            raise ConfigError("the state to resume was made with another --ema; resume with the same")
        self.optimizer.load_state_dict(state["optimizer"])
        if self.averages is not None:
            self.averages.load_state_dict(state["averages"])
        self.scaler.load_state_dict(state["scaler"])
        if self._moving_normalizer is not None:
            self._moving_normalizer.value.fill_(state["average_positives"])
        self.step = state["step"]
        self.skipped, self._skipped_in_a_row = state["skipped"]
